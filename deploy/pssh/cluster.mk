# Make a Spark cluster of machines that have nothing but ssh, and operate it: docs/cluster.md.
# Variables that are given (make cluster-up IPS=ips.txt SSH_KEY=key) reach the tool through the environment; make
# cluster-settings lists them.

CLUSTER_TOOL = $(or $(PYTHON),python3) deploy/pssh/cluster.py

CLUSTER_TARGETS := hosts-keys hosts-check hosts-setup knot-install knot-check knot-remove pex-install spark-install \
	master-start master-stop workers-start workers-stop workers-add workers-remove status logs run jobs-stop ui-tunnel \
	mount unmount cluster-up cluster-down clusters cluster-settings

.PHONY: $(CLUSTER_TARGETS)

$(CLUSTER_TARGETS): export PEX_FILE := $(PEX_FILE)

cluster-up: ## from bare hosts to a Spark cluster: all steps below, in order (IPS=ips.txt)
	@$(CLUSTER_TOOL) $@

cluster-down: ## end all of it on its hosts, and forget it
	@$(CLUSTER_TOOL) $@

run: ## run SCRIPT=download.py on the master, with ARGS="..."
	@$(CLUSTER_TOOL) $@

jobs-stop: ## end the jobs that make run started
	@$(CLUSTER_TOOL) $@

status: ## hosts, workers, cores, memory, applications, disk, bandwidth
	@$(CLUSTER_TOOL) $@

logs: ## the last LINES of LOG=master, worker, executors, kresd, job or all
	@$(CLUSTER_TOOL) $@

ui-tunnel: ## the web pages of master and driver on this machine
	@$(CLUSTER_TOOL) $@

clusters: ## list the clusters
	@$(CLUSTER_TOOL) $@

cluster-settings: ## list the variables of all these targets
	@$(CLUSTER_TOOL) $@

hosts-keys: ## put the keys of hosts that are not known yet into known_hosts
	@$(CLUSTER_TOOL) $@

hosts-check: ## who answers, and what it is: OS, cores, memory, disk, clock, Python, Java
	@$(CLUSTER_TOOL) $@

hosts-setup: ## install Java and Python where they lack, make REMOTE_DIR, names in /etc/hosts
	@$(CLUSTER_TOOL) $@

knot-install: ## a DNS resolver (knot-resolver) on each host, for itself
	@$(CLUSTER_TOOL) $@

knot-check: ## does it resolve?
	@$(CLUSTER_TOOL) $@

knot-remove: ## DNS as it was before
	@$(CLUSTER_TOOL) $@

pex-install: ## copy PEX_FILE to the hosts, or let them fetch PEX_URL
	@$(CLUSTER_TOOL) $@

spark-install: ## Spark from the pex, from SPARK_TGZ or from SPARK_URL
	@$(CLUSTER_TOOL) $@

master-start: ## start the master
	@$(CLUSTER_TOOL) $@

master-stop: ## end the master
	@$(CLUSTER_TOOL) $@

workers-start: ## start a worker on each host
	@$(CLUSTER_TOOL) $@

workers-stop: ## end the workers
	@$(CLUSTER_TOOL) $@

workers-add: ## bring in the hosts of IPS=new.txt, also while a job runs
	@$(CLUSTER_TOOL) $@

workers-remove: ## let the hosts of IPS=some.txt finish what they have, then take them out
	@$(CLUSTER_TOOL) $@

mount: ## sshfs of a storage machine on each host (MOUNT_HOST, MOUNT_DIR, MOUNT_USER, MOUNT_KEY)
	@$(CLUSTER_TOOL) $@

unmount: ## undo it
	@$(CLUSTER_TOOL) $@
