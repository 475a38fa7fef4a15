/* Many stopped KD targets in one process, fast enough never to be what limits a row (KD protocol, 1.6-1.8).
 *
 *   target [--unix PREFIX] [--tcp HOST:PORT] [--pty PREFIX] [--count N] [--baud B] [--prints N]
 *
 * Listens at PREFIX.0 .. PREFIX.N-1 (unix sockets; every connection is a target of its own), at a TCP address, or makes
 * PREFIX.0 .. PREFIX.N-1 links to ptys, metered at B baud, 8N1. A continue is followed by the asked number of debug prints,
 * each waiting for its ACK, then by the next stop. Prints "ready" when it listens and its counters as JSON when it ends.
 */
#define _GNU_SOURCE
#include "kd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

enum kind { LISTENER, TARGET, TIMER, SIGNALS };
enum { TICK_NS = 1000000000, UART_FIFO = 14 };

/* One direction of a metered line: bytes pass at the moment their last bit would have. */
struct meter { uint64_t due; size_t moving, start, end; uint8_t bytes[4 * MAX_FRAME]; };

struct target {
    enum kind kind;
    int fd, timer;                    /* timer: timerfd of a metered line, or -1 */
    bool tcp, waiting, break_pending;
    uint32_t next, expected;
    unsigned prints_left;
    bool stop_next;
    uint64_t sent_at, heard_at;
    struct target *all_next;
    struct reader reader;
    size_t packet_size, output_size;
    uint8_t packet[MAX_FRAME];        /* the packet that waits for its ACK, kept for RESEND */
    uint8_t output[4 * MAX_FRAME];
    struct meter in, out;
};

struct clock_source { enum kind kind; struct target *target; };

static int epoll;
static unsigned prints = 0;
static uint64_t byte_ns = 0;
static struct target *all;
static struct { uint64_t reads, prints, repeats, resends, stops; } counters;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, void *source) {
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = source };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0) die("epoll_ctl");
}

static void put_control(struct target *t, uint16_t type, uint32_t id) {
    if (t->output_size + HEADER <= sizeof t->output) t->output_size += kd_control(t->output + t->output_size, type, id);
}

static void transmit(struct target *t) {
    put32(t->packet + 8, t->next);
    if (t->output_size + t->packet_size <= sizeof t->output) {
        memcpy(t->output + t->output_size, t->packet, t->packet_size);
        t->output_size += t->packet_size;
    }
    t->sent_at = now_ns();
}

static void send_data(struct target *t, uint16_t type, size_t size) {
    t->packet_size = kd_data(t->packet, type, t->next, size);
    t->waiting = true;
    transmit(t);
}

static void send_stop(struct target *t) {
    uint8_t *p = t->packet + HEADER;
    memset(p, 0, STATE_CHANGE_FIXED);
    put32(p, 0x3030);
    put32(p + 8, 1);
    put64(p + 0x10, 0xFFFFFA8000C11040u);
    put64(p + 0x18, 0xFFFFF80002A7C910u);
    put32(p + 0x20, 0x80000003u);
    put64(p + 0x30, 0xFFFFF80002A7C910u);
    put32(p + 0xB8, 1);
    put64(p + 0xC8, 0x400);
    put32(p + 0xD0, 0x202);
    put16(p + 0xD6, 3);
    put16(p + 0xE8, 0x10);
    counters.stops++;
    send_data(t, STATE_CHANGE64, STATE_CHANGE_FIXED);
}

static void send_print(struct target *t) {
    char *text = (char *)t->packet + HEADER + PRINT_FIXED;
    int length = sprintf(text, "print %06u: a line as long as drivers like to write them\n", prints - t->prints_left);
    memset(t->packet + HEADER, 0, PRINT_FIXED);
    put32(t->packet + HEADER, 0x3230);
    put32(t->packet + HEADER + 8, (uint32_t)length);
    t->prints_left--;
    counters.prints++;
    send_data(t, DEBUG_IO, PRINT_FIXED + (size_t)length);
}

/* What a target does by itself once nothing waits for an ACK: the rest of its prints, then the stop after them. */
static void go_on(struct target *t) {
    if (t->prints_left) {
        send_print(t);
    } else if (t->stop_next) {
        t->stop_next = false;
        send_stop(t);
    }
}

/* A break noted while stopped fires before the target gets anywhere (KD protocol, 1.8). */
static void run(struct target *t) {
    t->prints_left = t->break_pending ? 0 : prints;
    t->break_pending = false;
    t->stop_next = true;
    go_on(t);
}

static void put_version(uint8_t *p) {
    memset(p + 0x10, 0, 40);
    put16(p + 0x10, 0x000F);
    put16(p + 0x12, 7601);
    p[0x14] = 6;
    p[0x15] = 2;
    put16(p + 0x16, 5);
    put16(p + 0x18, 0x8664);
    p[0x1A] = 12;
    p[0x1B] = 3;
    p[0x1C] = 0x31;
    put64(p + 0x20, 0xFFFFF80002A00000u);
    put64(p + 0x28, 0xFFFFF80002C45E90u);
}

static void answer(struct target *t, const struct packet *request) {
    uint8_t *p = t->packet + HEADER;
    uint32_t api = get32(request->payload), count, status = 0;
    size_t size = MANIPULATE_FIXED;
    if (api == CONTINUE || api == CONTINUE2) {
        run(t);
        return;
    }
    if (api == REBOOT || api == CAUSE_BUG_CHECK || api == CLEAR_ALL_INTERNAL_BREAKPOINTS) return;
    if (api == SWITCH_PROCESSOR) {
        send_stop(t);
        return;
    }
    memcpy(p, request->payload, MANIPULATE_FIXED);
    if (api == READ_VIRTUAL || api == READ_PHYSICAL) {
        count = get32(p + 0x18);
        if (count > MAX_READ) {
            count = MAX_READ;
            status = UNSUCCESSFUL;
        }
        put32(p + 0x1C, count);
        memcpy(p + MANIPULATE_FIXED, kd_memory(get64(p + 0x10)), count);
        size += count;
        counters.reads++;
    } else if (api == WRITE_VIRTUAL || api == WRITE_PHYSICAL) {
        put32(p + 0x1C, request->size - MANIPULATE_FIXED);
    } else if (api == GET_VERSION) {
        put_version(p);
    } else {
        status = UNSUCCESSFUL;
    }
    put32(p + 8, status);
    send_data(t, MANIPULATE, size);
}

static void take_control(struct target *t, const struct packet *p) {
    if (p->type == RESET) {
        t->next = t->expected = INITIAL_ID;
        put_control(t, RESET, 0);
    }
    if (p->type == RESEND || p->type == RESET) {
        if (t->waiting) {
            counters.repeats++;
            transmit(t);
        } else {
            send_stop(t);
        }
    } else if (p->type == ACKNOWLEDGE && t->waiting && p->id == (t->next & ~SYNC_BIT)) {
        t->waiting = false;
        t->next = p->id ^ 1;
        go_on(t);
    }
}

static void take_data(struct target *t, const struct packet *p) {
    if (t->waiting && p->id == t->expected) {
        counters.resends++;
        put_control(t, RESEND, 0);
        t->waiting = false;
        t->next = (t->next & ~SYNC_BIT) ^ 1;
        go_on(t);
    } else if (t->waiting || p->id != t->expected || p->type != MANIPULATE) {
        put_control(t, ACKNOWLEDGE, p->id);
    } else {
        put_control(t, ACKNOWLEDGE, p->id);
        t->expected ^= 1;
        answer(t, p);
    }
}

static void process(struct target *t) {
    struct packet p;
    enum found found;
    while ((found = reader_next(&t->reader, &p)) != NOTHING) {
        if (t->reader.break_seen) t->break_pending = true;
        t->reader.break_seen = false;
        if (found == CONTROL) {
            take_control(t, &p);
        } else if (found == BAD || p.size < MANIPULATE_FIXED) {
            counters.resends++;
            put_control(t, RESEND, 0);
        } else {
            take_data(t, &p);
        }
    }
}

static void forget(struct target *t) {
    struct target **link = &all;
    while (*link != t) link = &(*link)->all_next;
    *link = t->all_next;
    close(t->fd);
    free(t);
}

static bool write_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd p = { .fd = fd, .events = POLLOUT };
            if (poll(&p, 1, 1000) != 1) return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* The UART hands over what its FIFO holds, or what a millisecond brings where that is more (as USB adapters do). */
static size_t chunk_size(void) {
    size_t in_one_ms = 1000000 / byte_ns;
    return in_one_ms > UART_FIFO ? in_one_ms : UART_FIFO;
}

static void meter_start(struct meter *m, uint64_t now) {
    size_t waiting = m->end - m->start;
    if (m->moving || !waiting) return;
    m->moving = waiting < chunk_size() ? waiting : chunk_size();
    m->due = (m->due > now ? m->due : now) + m->moving * byte_ns;
}

/* Lets what is due pass; the due time of the chunk before is where the next begins, so lateness does not add up. */
static void meter_pass(struct meter *m, uint64_t now, uint8_t *to, size_t *size) {
    *size = 0;
    if (!m->moving || m->due > now) return;
    memcpy(to, m->bytes + m->start, m->moving);
    *size = m->moving;
    m->start += m->moving;
    m->moving = 0;
    if (m->start == m->end) {
        m->start = m->end = 0;
        return;
    }
    size_t waiting = m->end - m->start;
    m->moving = waiting < chunk_size() ? waiting : chunk_size();
    m->due += m->moving * byte_ns;
}

static void meter_add(struct meter *m, const uint8_t *data, size_t size) {
    if (m->end + size > sizeof m->bytes) {
        memmove(m->bytes, m->bytes + m->start, m->end - m->start);
        m->end -= m->start;
        m->start = 0;
    }
    if (m->end + size > sizeof m->bytes) return;
    memcpy(m->bytes + m->end, data, size);
    m->end += size;
}

static void arm(struct target *t) {
    uint64_t due = 0;
    if (t->in.moving) due = t->in.due;
    if (t->out.moving && (!due || t->out.due < due)) due = t->out.due;
    struct itimerspec when = { .it_value = { .tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u) } };
    timerfd_settime(t->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static bool flush(struct target *t) {
    size_t size = t->output_size;
    t->output_size = 0;
    if (!size) return true;
    if (t->timer < 0) return write_all(t->fd, t->output, size);
    meter_add(&t->out, t->output, size);
    meter_start(&t->out, now_ns());
    arm(t);
    return true;
}

static void readable(struct target *t) {
    size_t room;
    uint8_t *at = reader_room(&t->reader, &room);
    uint8_t metered[256];
    ssize_t n = t->timer < 0 ? read(t->fd, at, room) : read(t->fd, metered, sizeof metered);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        forget(t);
        return;
    }
    t->heard_at = now_ns();
    if (t->timer >= 0) {
        meter_add(&t->in, metered, (size_t)n);
        meter_start(&t->in, t->heard_at);
        arm(t);
        return;
    }
    t->reader.end += (size_t)n;
    process(t);
    if (!flush(t)) forget(t);
}

static void line_clock(struct target *t) {
    uint64_t expirations, now = now_ns();
    uint8_t out[sizeof t->out.bytes];
    size_t size, room;
    if (read(t->timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timerfd");
    for (;;) {
        meter_pass(&t->in, now, reader_room(&t->reader, &room), &size);
        if (!size) break;
        t->reader.end += size;
        t->heard_at = now;
        process(t);
        flush(t);
    }
    for (;;) {
        meter_pass(&t->out, now, out, &size);
        if (!size) break;
        if (!write_all(t->fd, out, size)) die("pty");
    }
    arm(t);
}

/* Once a second: packets nobody acknowledged, frames that were never finished, a lone break. */
static void tick(void) {
    uint64_t now = now_ns();
    struct target *t, *following;
    for (t = all; t; t = following) {
        following = t->all_next;
        bool silent = now - t->heard_at >= TICK_NS;
        if (silent && t->reader.start != t->reader.end) t->reader.start = t->reader.end = 0;
        if (t->waiting && now - t->sent_at >= TICK_NS && !t->out.moving) {
            counters.repeats++;
            transmit(t);
        } else if (!t->waiting && silent && t->reader.break_seen) {
            t->reader.break_seen = false;
            t->break_pending = true;
            send_stop(t);
        }
        if (!flush(t)) forget(t);
    }
}

static struct target *new_target(int fd, bool tcp) {
    struct target *t = calloc(1, sizeof *t);
    int one = 1;
    if (!t) die("calloc");
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *t = (struct target){ .kind = TARGET, .fd = fd, .timer = -1, .tcp = tcp, .next = INITIAL_ID, .expected = INITIAL_ID };
    t->all_next = all;
    all = t;
    watch(fd, t);
    return t;
}

struct listener { enum kind kind; int fd; bool tcp; };

static void listen_at(const struct sockaddr *address, socklen_t size, bool tcp) {
    struct listener *l = malloc(sizeof *l);
    int one = 1;
    *l = (struct listener){ LISTENER, socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), tcp };
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(l->fd, address, size) < 0 || listen(l->fd, 512) < 0) die("listen");
    watch(l->fd, l);
}

static void listen_unix(const char *prefix, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        if ((size_t)snprintf(a.sun_path, sizeof a.sun_path, "%s.%u", prefix, i) >= sizeof a.sun_path) die("path too long");
        listen_at((struct sockaddr *)&a, sizeof a, false);
    }
}

static void listen_tcp(const char *where) {
    char host[64];
    unsigned port;
    struct sockaddr_in a = { .sin_family = AF_INET };
    if (sscanf(where, "%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &a.sin_addr) != 1) die(where);
    a.sin_port = htons((uint16_t)port);
    listen_at((struct sockaddr *)&a, sizeof a, true);
}

/* The slave end stays open here, so that a relay that closes it does not end the line. */
static void open_ptys(const char *prefix, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char link[256];
        int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave;
        struct termios raw;
        if (master < 0 || grantpt(master) || unlockpt(master)) die("pty");
        slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (slave < 0 || tcgetattr(slave, &raw)) die("pty");
        cfmakeraw(&raw);
        tcsetattr(slave, TCSANOW, &raw);
        snprintf(link, sizeof link, "%s.%u", prefix, i);
        unlink(link);
        if (symlink(ptsname(master), link)) die(link);
        struct target *t = new_target(master, false);
        if (byte_ns) {
            struct clock_source *c = malloc(sizeof *c);
            t->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
            *c = (struct clock_source){ TIMER, t };
            watch(t->timer, c);
        }
    }
}

static void accept_one(struct listener *l) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) new_target(fd, l->tcp);
}

static void report(void) {
    printf("{\"reads\": %llu, \"prints\": %llu, \"stops\": %llu, \"repeats\": %llu, \"resends\": %llu}\n",
           (unsigned long long)counters.reads, (unsigned long long)counters.prints, (unsigned long long)counters.stops,
           (unsigned long long)counters.repeats, (unsigned long long)counters.resends);
}

static void loop(int seconds_timer) {
    struct clock_source ticker = { TIMER, NULL };
    enum kind signals = SIGNALS;
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    watch(signalfd(-1, &ends, SFD_CLOEXEC), &signals);
    watch(seconds_timer, &ticker);
    for (;;) {
        struct epoll_event event;   /* one at a time: handling it may free another event's target */
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        enum kind *source = event.data.ptr;
        uint64_t expirations;
        if (*source == SIGNALS) return;
        if (*source == LISTENER) accept_one((struct listener *)source);
        else if (*source == TARGET) readable((struct target *)source);
        else if (((struct clock_source *)source)->target) line_clock(((struct clock_source *)source)->target);
        else if (read(seconds_timer, &expirations, sizeof expirations) > 0) tick();
    }
}

int main(int argc, char **argv) {
    const char *unix_prefix = NULL, *tcp = NULL, *pty = NULL;
    unsigned count = 1;
    struct rlimit files = { 4096, 4096 };
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--unix")) unix_prefix = argv[i + 1];
        else if (!strcmp(argv[i], "--tcp")) tcp = argv[i + 1];
        else if (!strcmp(argv[i], "--pty")) pty = argv[i + 1];
        else if (!strcmp(argv[i], "--count")) count = (unsigned)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--baud")) byte_ns = 10000000000u / (uint64_t)atoll(argv[i + 1]);
        else if (!strcmp(argv[i], "--prints")) prints = (unsigned)atoi(argv[i + 1]);
        else die(argv[i]);
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1);
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    kd_make_pattern();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (unix_prefix) listen_unix(unix_prefix, count);
    if (tcp) listen_tcp(tcp);
    if (pty) open_ptys(pty, count);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec every = { { 1, 0 }, { 1, 0 } };
    timerfd_settime(timer, 0, &every, NULL);
    puts("ready");
    fflush(stdout);
    loop(timer);
    report();
    return 0;
}
