"""Where a model's files come from, and how they become a model.

sources      "tiny", a folder or a hub id -> a local folder
shards       safetensors files as untrusted input
manifest     SHA256SUMS
layout       the tensors of a checkpoint in full precision
expected     which tensors the files have to hold, quantised ones included
fingerprint  what tells one checkpoint from another of the same name
comparison   what there is against what there has to be
stream       bytes -> tensors
writing      tensors -> bytes
reading      a folder, opened
published    layers that others quantised -> matrices
formats      which matrix is quantised how
loading      stored tensors -> matrices in their places
placing      matrices <-> a model
checkpoint   load_into, and saving: save
quantizing   a folder -> a folder of quantised weights
memory       what a model takes, from its config.json
"""
