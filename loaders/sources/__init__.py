"""Where the bytes of images come from: folders, tar shards, .beton, Parquet."""
