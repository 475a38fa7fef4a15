/* A KD host that measures (KD protocol, 1.9): sequential reads, or the prints after a continue.
 *
 *   debugger --connect unix:PATH|unix:PREFIX.%u|tcp:HOST:PORT|tty:PATH [--count N] [--size BYTES] [--rounds R] [--seconds T]
 *            [--warmup W] [--prints] [--timeout SECONDS] [--handshake]
 *
 * N connections at once, each with one request outstanding; %u is the number of the connection. Ends after R rounds in each
 * connection or T seconds, whichever comes first. ACK and request are two writes, as debuggers do it. All data and all ids are
 * checked. One JSON line on stdout; exit status 1 and a sentence on stderr when the other side misbehaves.
 * --handshake: says "ready" when all sessions stand and waits for a line before it measures, and again before it leaves.
 */
#define _GNU_SOURCE
#include "kd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum state { SYNCING, READY, READING, PRINTING, DONE };
enum { MAX_SAMPLES = 1 << 20, MEMORY_SPAN = 16 << 20 };
#define MEMORY_BASE 0xFFFFF80002A00000u

struct connection {
    int fd;
    enum state state;
    bool reset_seen, acknowledged;
    uint32_t own, expected;
    uint64_t address, offset, sent_at, synced_at;
    unsigned tries, rounds;
    size_t request_size;
    uint8_t request[MAX_FRAME];
    struct reader reader;
};

static struct { const char *connect; unsigned count, size, rounds, warmup, timeout; double seconds; bool prints, handshake; }
    wanted = { .count = 1, .size = 64, .timeout = 20 };
static struct connection *connections;
static uint32_t *samples;
static unsigned sample_count, ready, done, duplicates, implicit_acks, resends, prints_seen;
static uint64_t total_rounds, began, ended;
static bool measuring;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("debugger: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    exit(1);
}

static void put(struct connection *c, const uint8_t *data, size_t size) {
    ssize_t n = write(c->fd, data, size);
    if (n != (ssize_t)size) fail("could not write: %s", n < 0 ? strerror(errno) : "short write");
}

static void put_control(struct connection *c, uint16_t type, uint32_t id) {
    uint8_t frame[HEADER];
    put(c, frame, kd_control(frame, type, id));
}

/* RESET alone first: a `b` would arm one more stop in a target that already stands (KD protocol, 1.8). */
static void synchronise(struct connection *c) {
    uint64_t now = now_ns();
    if (now - began > wanted.timeout * 1000000000ull) fail("no target in %u s", wanted.timeout);
    if (c->tries++) put(c, (const uint8_t *)"b", 1);
    c->reset_seen = false;
    c->sent_at = now;
    put_control(c, RESET, 0);
}

static void request(struct connection *c, uint32_t api, size_t size) {
    uint8_t *p = c->request + HEADER;
    put32(p, api);
    c->request_size = kd_data(c->request, MANIPULATE, c->own, size);
    c->acknowledged = false;
    c->sent_at = now_ns();
    put(c, c->request, c->request_size);
}

static void request_read(struct connection *c) {
    uint8_t *p = c->request + HEADER;
    memset(p, 0, MANIPULATE_FIXED);
    c->address = MEMORY_BASE + c->offset;
    c->offset = (c->offset + wanted.size) % MEMORY_SPAN;
    put64(p + 0x10, c->address);
    put32(p + 0x18, wanted.size);
    request(c, READ_VIRTUAL, MANIPULATE_FIXED);
}

static void request_continue(struct connection *c) {
    uint8_t *p = c->request + HEADER;
    memset(p, 0, MANIPULATE_FIXED);
    put32(p + 0x10, 0x00010002);
    put64(p + 0x18, 0x400);
    put64(p + 0x20, 1);
    request(c, CONTINUE2, MANIPULATE_FIXED);
}

static void begin(struct connection *c) {
    c->state = wanted.prints ? PRINTING : READING;
    if (wanted.prints) request_continue(c);
    else request_read(c);
}

static void finish(struct connection *c) {
    c->state = DONE;
    if (++done == wanted.count) ended = now_ns();
}

/* Rounds before --warmup count neither for the rate nor for the latencies; with many connections the clock starts when all
 * of them stand, and there is no warm-up. */
static void round_done(struct connection *c) {
    uint64_t now = now_ns();
    if (measuring) {
        total_rounds++;
        if (sample_count < MAX_SAMPLES) samples[sample_count++] = (uint32_t)((now - c->sent_at) / 100);
        c->rounds++;
    } else if (++c->rounds >= wanted.warmup) {
        c->rounds = 0;
        measuring = true;
        began = now;
    }
    bool late = wanted.seconds > 0 && measuring && (double)(now - began) > wanted.seconds * 1e9;
    if (late || (wanted.rounds && measuring && c->rounds >= wanted.rounds)) finish(c);
    else request_read(c);
}

static void take_reply(struct connection *c, const struct packet *p) {
    if (p->size != MANIPULATE_FIXED + wanted.size || get32(p->payload) != READ_VIRTUAL || get32(p->payload + 8) ||
        get64(p->payload + 0x10) != c->address || get32(p->payload + 0x1C) != wanted.size)
        fail("a reply that does not fit its request (type %u, %u bytes, status %08x)", p->type, p->size, get32(p->payload + 8));
    if (memcmp(p->payload + MANIPULATE_FIXED, kd_memory(c->address), wanted.size)) fail("wrong data");
    if (!c->acknowledged) {
        implicit_acks++;
        c->own ^= 1;
        c->acknowledged = true;
    }
    round_done(c);
}

static void take_print(const struct packet *p) {
    char text[16];
    snprintf(text, sizeof text, "print %06u", prints_seen);
    if (p->size < PRINT_FIXED + strlen(text) || get32(p->payload) != 0x3230 || memcmp(p->payload + PRINT_FIXED, text, strlen(text)))
        fail("print %u is missing, repeated or not in order", prints_seen);
    prints_seen++;
}

static void take_stop(struct connection *c) {
    if (c->state == SYNCING && c->reset_seen) {
        c->state = READY;
        c->synced_at = now_ns();
        ready++;
    } else if (c->state == PRINTING && !prints_seen) {
        request_continue(c);
    } else if (c->state == PRINTING) {
        finish(c);
    }
}

static void take_data(struct connection *c, const struct packet *p) {
    put_control(c, ACKNOWLEDGE, p->id & ~SYNC_BIT);
    if (p->id & SYNC_BIT) {
        c->own = INITIAL_ID;
        c->expected = INITIAL_ID;
    }
    if ((p->id & ~SYNC_BIT) != c->expected) {
        duplicates++;
        return;
    }
    c->expected ^= 1;
    if (p->type == STATE_CHANGE64) take_stop(c);
    else if (p->type == DEBUG_IO && c->state == PRINTING) take_print(p);
    else if (p->type == MANIPULATE && c->state == READING) take_reply(c, p);
    else if (c->state != SYNCING && c->state != DONE) fail("an unexpected packet of type %u", p->type);
}

static void take_control(struct connection *c, const struct packet *p) {
    if (p->type == ACKNOWLEDGE && p->id == c->own && !c->acknowledged) {
        c->acknowledged = true;
        c->own ^= 1;
    } else if (p->type == RESEND && !c->acknowledged) {
        resends++;
        put(c, c->request, c->request_size);
    } else if (p->type == RESET) {
        if (c->state != SYNCING) fail("the other side resets in the middle of a session");
        c->reset_seen = true;
        c->own = c->expected = INITIAL_ID;
    }
}

static void readable(struct connection *c) {
    size_t room;
    uint8_t *at = reader_room(&c->reader, &room);
    ssize_t n = read(c->fd, at, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) fail("the connection ended: %s", n ? strerror(errno) : "closed");
    c->reader.end += (size_t)n;
    struct packet p;
    enum found found;
    while ((found = reader_next(&c->reader, &p)) != NOTHING) {
        if (found == CONTROL) take_control(c, &p);
        else if (found == DATA) take_data(c, &p);
        else fail("a damaged packet");
    }
}

static int open_unix(unsigned index) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    const char *path = wanted.connect + 5, *mark = strstr(path, "%u");
    if (mark) snprintf(a.sun_path, sizeof a.sun_path, "%.*s%u", (int)(mark - path), path, index);
    else snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!connect(fd, (struct sockaddr *)&a, sizeof a)) return fd;
    close(fd);
    return -1;
}

static int open_tcp(void) {
    char host[64];
    unsigned port;
    int one = 1;
    struct sockaddr_in a = { .sin_family = AF_INET };
    if (sscanf(wanted.connect, "tcp:%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &a.sin_addr) != 1)
        fail("--connect %s: unix:PATH, tcp:HOST:PORT or tty:PATH wanted", wanted.connect);
    a.sin_port = htons((uint16_t)port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!connect(fd, (struct sockaddr *)&a, sizeof a)) return fd;
    close(fd);
    return -1;
}

/* Relays may still be starting, so it knocks until --timeout. */
static int open_connection(unsigned index) {
    uint64_t start = now_ns();
    for (;;) {
        int fd;
        if (!strncmp(wanted.connect, "unix:", 5)) fd = open_unix(index);
        else if (!strncmp(wanted.connect, "tty:", 4)) fd = open(wanted.connect + 4, O_RDWR | O_NOCTTY);
        else fd = open_tcp();
        if (fd >= 0) return fd;
        if (now_ns() - start > wanted.timeout * 1000000000ull) fail("%s: %s", wanted.connect, strerror(errno));
        usleep(10000);
    }
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) { return sample_count ? samples[(unsigned)(q * (sample_count - 1))] / 10.0 : 0; }

static void report(double sync_ms) {
    double seconds = (double)(ended - began) / 1e9;
    qsort(samples, sample_count, sizeof *samples, by_value);
    printf("{\"count\": %u, \"size\": %u, \"rounds\": %llu, \"seconds\": %.6f, \"per_second\": %.3f, \"p50_us\": %.1f, "
           "\"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"sync_ms\": %.2f, \"prints\": %u, \"duplicates\": %u, "
           "\"resends\": %u, \"implicit_acks\": %u}\n",
           wanted.count, wanted.size, (unsigned long long)total_rounds, seconds, (double)total_rounds / seconds, quantile(0.5),
           quantile(0.9), quantile(0.99), quantile(1), sync_ms, prints_seen, duplicates, resends, implicit_acks);
}

/* Every half second: sessions that do not stand yet try again, and a reply that is late ends the run. */
static void check_times(void) {
    uint64_t now = now_ns();
    for (unsigned i = 0; i < wanted.count; i++) {
        struct connection *c = &connections[i];
        if (c->state == SYNCING && now - c->sent_at > 2000000000ull) synchronise(c);
        if (c->state == READING && now - c->sent_at > wanted.timeout * 1000000000ull) fail("no reply in %u s", wanted.timeout);
        if (c->state == PRINTING && now - c->sent_at > wanted.timeout * 10000000000ull) fail("only %u prints came", prints_seen);
    }
}

static void take_events(int epoll, int timeout_ms) {
    static uint64_t checked_at;
    struct epoll_event events[64];
    int n = epoll_wait(epoll, events, 64, timeout_ms);
    for (int i = 0; i < n; i++) readable(events[i].data.ptr);
    uint64_t now = now_ns();
    if (now - checked_at > 500000000ull) {
        checked_at = now;
        check_times();
    }
}

/* While it waits for the line, the sessions stay served. */
static void wait_for_line(int epoll) {
    struct pollfd in[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = epoll, .events = POLLIN } };
    char line[64];
    fflush(stdout);
    if (!wanted.handshake) return;
    for (;;) {
        poll(in, 2, 500);
        if (in[0].revents) break;
        take_events(epoll, 0);
    }
    if (read(STDIN_FILENO, line, sizeof line) < 0) fail("stdin: %s", strerror(errno));
}

static void measure(int epoll) {
    began = now_ns();
    for (unsigned i = 0; i < wanted.count; i++) synchronise(&connections[i]);
    while (ready < wanted.count) take_events(epoll, 500);
    double sync_ms = (double)(connections[wanted.count - 1].synced_at - began) / 1e6;
    if (wanted.handshake) puts("ready");
    wait_for_line(epoll);
    measuring = wanted.prints || wanted.count > 1 || !wanted.warmup;
    began = now_ns();
    for (unsigned i = 0; i < wanted.count; i++) begin(&connections[i]);
    while (done < wanted.count) take_events(epoll, 500);
    report(sync_ms);
    wait_for_line(epoll);
}

static void parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--prints") || !strcmp(argv[i], "--handshake")) {
            if (argv[i][2] == 'p') wanted.prints = true;
            else wanted.handshake = true;
            continue;
        }
        if (i + 1 >= argc) fail("%s needs a value", argv[i]);
        const char *name = argv[i], *value = argv[++i];
        if (!strcmp(name, "--connect")) wanted.connect = value;
        else if (!strcmp(name, "--count")) wanted.count = (unsigned)atoi(value);
        else if (!strcmp(name, "--size")) wanted.size = (unsigned)atoi(value);
        else if (!strcmp(name, "--rounds")) wanted.rounds = (unsigned)atoi(value);
        else if (!strcmp(name, "--warmup")) wanted.warmup = (unsigned)atoi(value);
        else if (!strcmp(name, "--timeout")) wanted.timeout = (unsigned)atoi(value);
        else if (!strcmp(name, "--seconds")) wanted.seconds = atof(value);
        else fail("unknown option %s", name);
    }
    if (!wanted.connect || !wanted.count || wanted.size > MAX_READ) fail("--connect wanted, and at most %d bytes a read", MAX_READ);
    if (!wanted.rounds && wanted.seconds <= 0) wanted.rounds = 1000;
}

int main(int argc, char **argv) {
    struct rlimit files = { 4096, 4096 };
    parse(argc, argv);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_NOFILE, &files);
    kd_make_pattern();
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    connections = calloc(wanted.count, sizeof *connections);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < wanted.count; i++) {
        struct connection *c = &connections[i];
        c->fd = open_connection(i);
        c->own = c->expected = INITIAL_ID;
        c->acknowledged = true;
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e)) fail("epoll_ctl: %s", strerror(errno));
    }
    measure(epoll);
    return 0;
}
