"""Object stores are refused in one line: jobs need a local or shared file system."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

# A storage provider that Snakemake accepts on the command line.
PROVIDER = """
from snakemake_interface_storage_plugins.storage_object import StorageObjectRead, StorageObjectWrite
from snakemake_interface_storage_plugins.storage_provider import StorageProviderBase, StorageQueryValidationResult


class StorageProvider(StorageProviderBase):
    @classmethod
    def example_queries(cls):
        return []

    @classmethod
    def is_valid_query(cls, query):
        return StorageQueryValidationResult(query=query, valid=True)

    def rate_limiter_key(self, query, operation):
        return ""

    def default_max_requests_per_second(self):
        return 1.0

    def use_rate_limiter(self):
        return False


class StorageObject(StorageObjectRead, StorageObjectWrite):
    pass
"""
# An executor whose jobs share no files with the machine that starts them, like one for Kubernetes.
EXECUTOR = """
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
)


class Executor(RemoteExecutor):
    pass
"""
STORE = ("--default-storage-provider", "elsewhere", "--default-storage-prefix", "elsewhere://bucket")


@pytest.mark.parametrize("options", [("--cores", "2"), ("--executor", "unshared", "--jobs", "2", "--dry-run")])
def test_an_object_store_is_refused_before_any_job(empty_project: Project, tmp_path: Path, options: tuple[str, ...]) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(empty_project.folder, project.folder)
    # Project.run has only this folder on the path of Python modules.
    for name, text in {"storage_plugin_elsewhere": PROVIDER, "executor_plugin_unshared": EXECUTOR}.items():
        package = project.folder / f"src/snakemake_{name}/__init__.py"
        package.parent.mkdir()
        package.write_text(text)
    done = project.run("snakemake", *options, *STORE, ok=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("datafree:")]
    assert lines == ["datafree: --default-storage-provider: got elsewhere; jobs need a local or shared file system, leave the option out"]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (project.folder / "artifacts").exists()
