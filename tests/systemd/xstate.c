/*
 * Preloaded into User-Mode Linux, lets it boot on processors that have more state than it knows of, such as those with AMX.
 *
 * It saves a process's registers by PTRACE_GETREGSET into a buffer of a fixed size, and writes that back. The kernel fills as much of
 * the buffer as there is, but takes back only the whole state (EFAULT otherwise). Here the whole state is read before each write, what
 * User-Mode Linux knows of is put into it, and all of it is written. What it does not know of stays as it is: no process of its kind
 * can have touched that in between. Where the whole state fits into the caller's buffer, nothing is changed.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NT_X86_XSTATE 0x202
#define LEAF 0xd
/* The legacy area, and then the header: which components are there (XSTATE_BV), and how they are packed. */
#define LEGACY 512
#define HEADER 64

/* The whole state, and how large any state of this processor can be. Not on the stack, which User-Mode Linux has but little of. */
static unsigned char *whole;
static size_t size;

/* The offsets of the components 2 to 62 in the state. A component that does not exist has no size. The first two are the legacy area. */
static struct { uint32_t offset, size; } component[63];

__attribute__((constructor)) static void learn(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(LEAF, 0, &a, &b, &c, &d) || c < LEGACY + HEADER)
        return;
    uint64_t there = (uint64_t)d << 32 | a;
    size_t all = c;
    for (unsigned i = 2; i < 63; i++) {
        if (!(there >> i & 1) || !__get_cpuid_count(LEAF, i, &a, &b, &c, &d))
            continue;
        if (b < LEGACY + HEADER || a > all || b > all - a)
            return;
        component[i].size = a;
        component[i].offset = b;
    }
    void *memory = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return;
    whole = memory;
    size = all;
}

/* Puts what the caller knows of into the whole state, of which so much is there. Only components that both have whole are touched. */
static void amend(const unsigned char *known, size_t length, size_t there)
{
    uint64_t has, had, mask = 3;
    memcpy(&has, known + LEGACY, sizeof has);
    memcpy(&had, whole + LEGACY, sizeof had);
    memcpy(whole, known, LEGACY);
    for (unsigned i = 2; i < 63; i++) {
        size_t end = (size_t)component[i].offset + component[i].size;
        if (component[i].size == 0 || end > length || end > there)
            continue;
        memcpy(whole + component[i].offset, known + component[i].offset, component[i].size);
        mask |= UINT64_C(1) << i;
    }
    had = (had & ~mask) | (has & mask);
    memcpy(whole + LEGACY, &had, sizeof had);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    long process = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    /* As the C library has it: what is peeked at is returned. */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word;
        if (syscall(SYS_ptrace, (long)request, process, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE && whole != NULL) {
        const struct iovec *known = data;
        struct iovec all = { whole, size };
        if (known->iov_len >= LEGACY + HEADER
            && syscall(SYS_ptrace, (long)PTRACE_GETREGSET, process, address, &all) == 0
            && all.iov_len <= size && all.iov_len > known->iov_len) {
            amend(known->iov_base, known->iov_len, all.iov_len);
            return syscall(SYS_ptrace, (long)request, process, address, &all);
        }
    }
    return syscall(SYS_ptrace, (long)request, process, address, data);
}
