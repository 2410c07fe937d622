/* The time of day that a file says, for one process: LD_PRELOAD this, and name the file in FAULTS_CLOCK.

The file holds eight bytes, nanoseconds to be added to the true time. It is mapped, so that a jump is seen at once by
every thread. Monotonic clocks are left alone, as they are when somebody sets a machine's clock; libfaketime moves the
absolute sleeps of CLOCK_MONOTONIC along, which then fail with EINVAL. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void open_clock(void) {
    const char *name = getenv("FAULTS_CLOCK");
    int file = name ? open(name, O_RDONLY) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) ahead = found;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t all = now->tv_nsec + *ahead % 1000000000;
        now->tv_sec += *ahead / 1000000000;
        if (all >= 1000000000) { all -= 1000000000; now->tv_sec += 1; }
        if (all < 0) { all += 1000000000; now->tv_sec -= 1; }
        now->tv_nsec = all;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
