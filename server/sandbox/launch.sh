# Run by `bash -c` around each sandbox, as `launch DIRECTORY UID FILE_KIB [CGROUP...] -- COMMAND...`, and stays until COMMAND
# has ended: its death takes bubblewrap along, and that takes the sandbox along. UID is empty where the control plane is not
# root; FILE_KIB is the size of the largest file that may be written. Descriptors: 0 input, 1 and 2 log, 3 status, 4 arguments,
# 5 system call filter.
set -eu
directory=$1 uid=$2 file_kib=$3
shift 3

# Whoever started the control plane may have left descriptors open; nothing but ours may reach the sandbox.
for entry in /proc/self/fd/*; do
  number=${entry##*/}
  if [ "$number" -gt 5 ]; then exec {number}>&-; fi
done
ulimit -c 0
# Where we were given a lower one, that one holds.
ulimit -f "$file_kib" 2>&- || :

# First of all: from here on a restarted control plane can find and kill us.
read -r identity < /proc/self/stat
printf '%s\n' "$identity" > "$directory/supervisor"

# Before anything of the sandbox exists. The first move takes the kernel ten milliseconds; making it in the background while
# mounting gained nothing.
while [ "$1" != -- ]; do
  printf '0\n' > "$1/cgroup.procs"
  shift
done
shift

if [ -n "$uid" ]; then
  # We are in a mount namespace of our own. The table gathers all sources under /tmp, because the directories above them
  # may be closed to the user we become.
  mount --all --fstab "$directory/fstab"
  shopt -s nullglob
  writable=(/tmp/writable-*)
  # Every new file system has this directory; nobody needs it.
  rmdir -- "${writable[@]/%//lost+found}" 2>&- || :
  if [ "${#writable[@]}" -gt 0 ]; then chown -R -P -h -- "$uid:$uid" "${writable[@]}"; fi
  set -- setpriv "--reuid=$uid" "--regid=$uid" --clear-groups --inh-caps=-all --no-new-privs -- "$@"
fi

# Our input is a socket; shells and /dev/stdin behave differently on one, and no socket to the outside is to be passed in.
exec < <(exec cat)
"$@" <&0 &
child=$!
# Only the sandbox holds them now, so that whoever writes to it learns when it stops reading.
exec <&- 4<&- 5<&-
code=0
wait "$child" || code=$?
# Bubblewrap has said so itself already, unless it could not run the command or was killed. (By descriptor: the directory
# may be out of our sight, below the real /tmp.)
printf '{ "exit-code": %d }\n' "$code" >&3
