"""The data that flows between components. One file an idea; import what you need from its file.

`formats` numbers and N:M sparsity; `model` what a model is made of; `steps` the shape of a forward
pass; `ops` what an accelerator prices; `lowering` model + step -> ops, with `exact` as its oracle;
`cost`, `hardware`, `requests`, `serving`, `network`, `report`. Nothing here imports torch or any
other part of crosslayer but `errors`.
"""
