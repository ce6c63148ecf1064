# By which name and address the others know this host.
# shellcheck shell=bash

fact hostname "$(uname -n)"
