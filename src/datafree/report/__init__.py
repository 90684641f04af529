"""Reports of a study: tables (``tables``), SVG figures (``plots``) and one self-contained HTML page (``page``)."""
