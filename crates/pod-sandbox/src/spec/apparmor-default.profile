# What a container may do that asks for the default: anything that happens in the container, nothing that
# changes the node. @NAME@ is replaced by the name of the profile.
profile @NAME@ flags=(attach_disconnected,mediate_deleted) {
  # Files, sockets and capabilities are bounded by the rest of a container's confinement.
  file,
  network,
  unix,
  capability,
  # Mounting and pivot_root are allowed nowhere below: what is mounted decides what a path means.
  umount,

  # The node stops and debugs containers; containers reach each other only where both are confined so.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun,/usr/sbin/runc,/usr/bin/runc,/usr/bin/crun,/usr/local/sbin/runc},
  signal (send, receive) peer=@NAME@,
  ptrace (trace, read, tracedby, readby) peer=@NAME@,

  # Of /proc: what reads the node's memory, and what sets it for everybody.
  audit deny /proc/kcore rwklx,
  audit deny /proc/{kmem,mem,sysrq-trigger} rwklx,
  deny /proc/{acpi,asound,bus,fs,irq,scsi,tty}/** w,
  # Settings that are the container's own are those of its network and its IPC namespace, and its names.
  deny /proc/sys/{abi,debug,dev,user,vm}/** w,
  deny /proc/sys/fs/[^m]** w,
  deny /proc/sys/kernel/*/** w,
  deny /proc/sys/kernel/[^dhms]* w,
  deny /proc/sys/kernel/d[^o]* w,
  deny /proc/sys/kernel/h[^o]* w,
  deny /proc/sys/kernel/m[^s]* w,
  deny /proc/sys/kernel/s[^eh]* w,

  # Of /sys: nothing but the container's own control groups is written, firmware and policies are not read.
  audit deny /sys/{firmware,kernel/security}/** rwklx,
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** w,
  deny /sys/fs/[^c]*/** w,
}
