/* What the load clients have in common: the clock, the marks in messages, latencies, and their own CPU time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK_BYTES 26 /* @ 8 hex digits : 16 hex digits */
#define RING 65536    /* messages that are remembered */
#define BUCKETS 4096
#define MOST_BYTES 16384

static uint64_t histogram[BUCKETS], latencies, longest;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

/* Buckets of 1/32 of a power of two, in units of 256 ns. */
static int bucket_of(uint64_t ns) {
    uint64_t v = ns >> 8;
    if (v < 32) return (int)v;
    int log = 63 - __builtin_clzll(v);
    int b = (log - 4) * 32 + (int)((v >> (log - 5)) & 31);
    return b < BUCKETS ? b : BUCKETS - 1;
}

static double bucket_us(int b) {
    if (b < 32) return b * 0.256;
    int log = b / 32 + 4;
    return (double)((32ull + (uint64_t)(b % 32)) << (log - 5)) * 0.256;
}

/* Below 0: none of what was sent in time has come in time. */
static double percentile_us(double p) {
    if (latencies == 0) return -1;
    uint64_t want = (uint64_t)((double)latencies * p), seen = 0;
    for (int b = 0; b < BUCKETS; b++)
        if ((seen += histogram[b]) > want) return bucket_us(b);
    return 0;
}

static void send_all(int fd, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, 5000);
            continue;
        }
        if (sent < 0) fail("send", strerror(errno));
        at += sent;
        size -= (size_t)sent;
    }
}

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}
