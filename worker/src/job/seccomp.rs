//! The system calls that a job may make.
//!
//! An allow-list after Docker's documented default, narrowed: a job has no capabilities, so
//! nothing is allowed on account of one, and what only makes, joins or inspects namespaces,
//! mounts, keys, other processes' memory or kernel interfaces is refused. What is not listed
//! fails with EPERM. Three special cases:
//!
//! - `clone` is allowed without namespace flags; `clone3` hides its flags behind a pointer that
//!   seccomp can't read, so it answers ENOSYS and libraries fall back to `clone`.
//! - `socket` is allowed for local, IP and netlink sockets. Others are refused: VSOCK leads past
//!   the network namespace to a hypervisor, ALG and the rest are kernel surface without use.
//! - `personality` is allowed for the values that Docker allows.
//!
//! Only the native architecture is listed: programs of 32-bit ABIs are killed (SIGSYS).

use serde_json::{Value, json};

/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}` (sched.h); `CLONE_NEWTIME` does not fit `clone`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// `PER_LINUX`, `PER_LINUX32`, `UNAME26`, both, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Allowed with any arguments.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
    fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs
    fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get
    ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise
    mbind membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap
    mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease
    pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg
    recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_robust_list
    set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
    setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr
    shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat
    statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
    utimensat utimes vfork wait4 waitid write writev
";

/// The profile as `linux.seccomp` of an OCI configuration. runc leaves out names that its
/// libseccomp or the architecture does not know.
pub(crate) fn profile() -> Value {
    let allow_one_of = |name: &str, values: &[u64]| -> Vec<Value> {
        let rule = |value: &u64| {
            json!({
                "names": [name], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
            })
        };
        values.iter().map(rule).collect()
    };
    let mut rules = vec![
        json!({
            "names": ALLOWED.split_whitespace().collect::<Vec<_>>(),
            "action": "SCMP_ACT_ALLOW",
        }),
        json!({
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            // value is the mask, valueTwo what must remain.
            "args": [{
                "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0,
                "op": "SCMP_CMP_MASKED_EQ",
            }],
        }),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
    ];
    rules.extend(allow_one_of("socket", &SOCKET_FAMILIES));
    rules.extend(allow_one_of("personality", &PERSONALITIES));
    let architecture =
        if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [architecture],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_a_container_is_not_allowed() {
        let refused = "
            acct add_key bpf chroot clock_settime clone3 delete_module fanotify_init finit_module
            fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register
            io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie
            memfd_secret mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at
            open_tree perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv
            process_vm_writev ptrace quotactl reboot request_key setdomainname sethostname setns
            settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup vmsplice
        ";
        for name in refused.split_whitespace() {
            assert!(!ALLOWED.split_whitespace().any(|allowed| allowed == name), "{name}");
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut names: Vec<_> = ALLOWED.split_whitespace().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
