"""The data path: what joins the cipher to DataLoaders, torchvision and whole data sets on disk."""
