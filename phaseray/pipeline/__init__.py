"""Pipeline: Ray Data fans crystals out into catalogues and shards; loading brings the shards back as batches."""
