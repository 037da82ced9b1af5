"""A run on Kubernetes: its Dask cluster by the operator, its scaling, and the Job that drives it.

All of it speaks to the API server with the rights of whoever runs it and to nobody else; the operator makes
pods of what is asked for.
"""
