#!/bin/sh
# Make an environment of its own for the packages that `python -m benchmarks sae --peers DIR/bin/python` compares with.
# Usage: benchmarks/make_peers_env.sh DIR [PYTHON]. TORCH names another version of torch.
set -eu
dir=${1:?usage: make_peers_env.sh DIR [PYTHON]}
torch=${TORCH:-2.13.0}
"${2:-python3}" -m venv "$dir"
"$dir/bin/pip" install --quiet "torch==$torch"
for package in sae-lens dictionary-learning eai-sparsify; do
    # One that cannot be installed is reported, and skipped by the benchmark with the reason in its row.
    "$dir/bin/pip" install --quiet "$package" "torch==$torch" || echo "$package could not be installed" >&2
done
# PyPI's torchvision is built against PyPI's torch; beside another build it breaks `import transformers`. None needs it.
"$dir/bin/pip" uninstall --quiet --yes torchvision
"$dir/bin/pip" list 2>/dev/null | grep -i -E '^(torch|sae-lens|dictionary-learning|eai-sparsify) '
