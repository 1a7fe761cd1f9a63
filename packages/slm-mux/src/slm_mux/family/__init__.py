"""The live family: four small transformers, each trained here on its own mixture of problems."""
