"""Dictionaries in the files of other libraries: one file a format, each with `write` and `read`.

python -m scae.interop export RUN --format saelens --site 0.mlp --out DIR

found       what lies at a path, known from small files alone; imports no torch
formats     the formats by name
linear      a dictionary as plain weights of the stream, which all formats have
export      write dictionaries of a run
beginning   read what a suite begins from (`pretrain.init_from`)
"""
