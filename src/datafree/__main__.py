"""``python -m datafree``: the ``datafree`` command; jobs of the pipeline run in this way, without programs of an environment on PATH."""

import signal

if __name__ == "__main__":
    # Until the command line handles Ctrl-C in one line, it ends the process without a traceback. If it is ignored, it stays ignored.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from datafree.workflow.code import note_loaded_modules

    note_loaded_modules()  # before any module that can be part of a job's code

    from datafree.cli import main

    signal.signal(signal.SIGINT, handler)
    main()
