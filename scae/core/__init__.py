"""What every room uses: the axes of all shapes, whole files, sums over processes, how a command ends early."""
