"""The workflow engine: records of jobs, running a job, checks before the first job, status, MLflow tracking."""
