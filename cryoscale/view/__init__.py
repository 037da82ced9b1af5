"""The web page on a finished run: ``cryoscale view OUT`` (extra ``view``)."""
