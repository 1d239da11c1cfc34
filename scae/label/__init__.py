"""Descriptions of features by a language model, and how well each tells when its feature fires.

`python -m scae.label RUN_DIR` is the only way to them: nothing else asks anybody. Nothing here imports torch before a
local model is opened.
"""
