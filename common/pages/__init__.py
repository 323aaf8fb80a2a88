"""What people look at, in one style: a document of sections, tables and plots, as a file or as a served page."""
