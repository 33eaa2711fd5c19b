#!/bin/sh
# Runs in a plain guest when virtme-ng's init is done: gives it what a host has, says that it is
# ready, and becomes the launch script (argument 1), which is the worker's Python.

# The host's end of the port is a pipe that QEMU reads or writes. Where the host has udev installed
# virtme-ng's init has connected us; where not, it runs us on the console.
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

# Before Linux 5.11 BPF maps and programs are charged against it. POSIX has no -l, dash has.
# shellcheck disable=SC3045
ulimit -l unlimited

mount -t bpf bpf /sys/fs/bpf

# virtme-ng's init has done it where the host has iproute2.
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
sh "$1"

# virtme-ng's init would sync, unmount and power off; nothing here is worth keeping.
echo o > /proc/sysrq-trigger
