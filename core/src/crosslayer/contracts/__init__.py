"""The data that flows between components. One file an idea; import what you need from its file.

`formats` numbers and N:M sparsity; `model` what a model is made of; `ops` what an accelerator
prices; `lowering` model + step -> ops; `cost`, `hardware`, `requests`, `serving`, `network`, `report`.
Nothing here imports torch or any other part of crosslayer but `errors`.
"""
