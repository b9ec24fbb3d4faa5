#!/bin/sh
# A network for pods that have nobody to talk to. The runtime wants a plugin to
# exist and to know an address; see CNI's specification, section 2.
cat >/dev/null
case $CNI_COMMAND in
ADD) echo '{"interfaces": [{"name": "'"$CNI_IFNAME"'", "sandbox": "'"$CNI_NETNS"'"}],
            "ips": [{"version": "4", "interface": 0, "address": "192.0.2.1/32"}]}' ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}' ;;
esac
