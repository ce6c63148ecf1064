"""From machines with ssh to a Spark cluster, and back; the Makefile's cluster targets (deploy/pssh/cluster.mk)."""
