#!/bin/sh
# Runs in a plain guest after virtme-ng's init: sets up the rest of a system, prints that the guest
# is ready, and runs the launch script (argument 1), which executes the worker's Python.

# Ends the guest, whose kernel has no option $1; `lacking` in machines/console.py reads it.
lacks() {
    echo "<0>bpflink: this kernel lacks $1" > /dev/kmsg
    echo o > /proc/sysrq-trigger
    exit 1
}

[ -d /sys/bus/virtio/drivers/virtio_console ] || lacks CONFIG_VIRTIO_CONSOLE
grep -qw overlay /proc/filesystems || lacks CONFIG_OVERLAY_FS

# Prints the device of the virtio port $1; QEMU connects the port with a pipe on the host. If the
# host has udev, virtme-ng's init runs this script on the ports, otherwise on the console.
port() {
    for name in /sys/class/virtio-ports/*/name; do
        read -r found < "$name"
        if [ "$found" = "$1" ]; then
            name=${name%/name}
            echo "/dev/${name##*/}"
            return
        fi
    done
    echo "plain.sh: no virtio port $1" > /dev/console
    exit 1
}

case $(readlink /proc/self/fd/0) in
/dev/vport* | /dev/virtio-ports/*) ;;
*)
    stdin=$(port virtme.stdin) && stdout=$(port virtme.stdout) && stderr=$(port virtme.stderr) ||
        exit 1
    exec < "$stdin" > "$stdout" 2> "$stderr"
    ;;
esac

# Before Linux 5.11 BPF maps and programs count against this limit. POSIX has no -l, dash has.
# shellcheck disable=SC3045
ulimit -l unlimited

mount -t bpf bpf /sys/fs/bpf

# A tmpfs takes half of the memory by default, and several together more than there is: the kernel
# would kill processes before a write fails. /run holds what is written to the host's directories.
while read -r name available _; do
    [ "$name" != MemAvailable: ] || break
done < /proc/meminfo
# Limits the tmpfs on $2 to $1 percent of the memory that is available.
limit() {
    mount -o "remount,size=$((available * $1 / 100))k" "$2"
}
limit 40 /run
limit 10 /dev/shm
limit 10 /var/tmp
for place in /var/log /var/cache /var/lib/private /var/lib/apt; do
    limit 2 "$place"
done

# virtme-ng's init has already done it if the host has iproute2.
ip link set dev lo up 2> /dev/null || busybox ip link set dev lo up

# Each BPF FS mount asks for bpf_preload, which starts a user-mode helper: refuse it at once.
cat > /run/modprobe << 'EOF'
#!/bin/sh
case "$*" in *bpf_preload*) exit 1 ;; esac
exec /sbin/modprobe "$@"
EOF
chmod 755 /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe

echo "bpflink: guest ready"
# shellcheck disable=SC2016
sh -c 'echo $$ > /run/bpflink-worker && exec sh "$1"' sh "$1"
status=$?

# `worker_end` in machines/console.py reads this. A shell's 128 + N is signal N.
if [ "$status" -gt 128 ]; then
    how="by signal $((status - 128))"
else
    how="with status $status"
fi
read -r worker < /run/bpflink-worker
echo "<0>bpflink: worker $worker ended $how" > /dev/kmsg

# virtme-ng's init would sync, unmount and power off; nothing here is worth keeping.
echo o > /proc/sysrq-trigger
