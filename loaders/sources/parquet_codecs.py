"""How the pages of a Parquet file are compressed."""

# pyarrow's names of Parquet's codecs; an index stores positions in this tuple
CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4_RAW")
