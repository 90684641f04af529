"""The stages of the pipeline, one module per Snakemake rule: read files, call a room, write files."""
