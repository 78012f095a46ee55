"""Where a model's files come from, and how they become a model.

sources      "tiny", a folder or a hub id -> a local folder
shards       safetensors files as untrusted input
manifest     SHA256SUMS
layout       which tensors there have to be
comparison   what there is against what there has to be
stream       bytes <-> tensors
checkpoint   load_into, and saving: save
"""
