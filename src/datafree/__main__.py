"""``python -m datafree``: the ``datafree`` command; jobs of the pipeline run in this way, without programs of an environment on PATH."""

from datafree.workflow.code import note_loaded_modules

note_loaded_modules()  # before any module that can be part of a job's code

from datafree.cli import main  # noqa: E402

main()
