"""Turning results into things people read: tables (``tables``), figures (``plots``) and one self-contained HTML page (``page``)."""
