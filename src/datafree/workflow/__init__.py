"""The workflow: records of jobs (provenance), running jobs, checks before the first job, job status, MLflow tracking."""
