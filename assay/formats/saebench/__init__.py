"""saebench: results in SAEBench's schema (Karvonen et al. 2025, arXiv 2503.09532), read and written.

`fields` says which of its metrics is which score of ours, and where the definitions part. `reading` makes records of published files;
`writing` makes files of records. schemas.json holds the JSON Schemas of sae-bench 0.6.0 without titles, descriptions and defaults.
"""
