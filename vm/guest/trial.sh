#!/bin/sh
# The init of a guest by which KVM is tried, with the programs and the modules of virtme-ng's
# initramfs. Says on the port of the standard output that it runs; without the port it ends.

mkdir /sys
mount -t devtmpfs none /dev
mount -t sysfs none /sys
# shellcheck disable=SC1091
[ ! -e /modules/load_all.sh ] || . /modules/load_all.sh

for port in /sys/class/virtio-ports/*; do
    read -r name < "$port/name"
    if [ "$name" = virtme.stdout ]; then
        echo "bpflink: guest ready" > "/dev/${port##*/}"
        exec sleep 3600
    fi
done
exit 1
