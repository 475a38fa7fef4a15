/* A private network with a delay below TCP, for as long as this process lives.
 *
 *   delay ONE_WAY_MICROSECONDS
 *
 * Makes two network namespaces that nobody else can see, joined by a pair of TUN devices; every IP packet that leaves one
 * appears in the other ONE_WAY_MICROSECONDS later. With 0 there is one namespace with nothing but its loopback. Prints where
 * the namespaces are and their addresses as JSON when they are ready, and at the end (SIGTERM) how late packets were on top
 * of the wanted delay. Namespaces, devices and addresses vanish with the processes that use them; there is nothing to undo.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, QUEUE = 8192, LATENESS_STEPS = 100000 };

struct waiting { uint64_t due; uint16_t size; uint8_t bytes[MTU]; };
struct way { int from, to; unsigned head, tail; struct waiting *queue; };

static uint64_t delay_ns, packets, lost, late_max;
static uint32_t lateness[LATENESS_STEPS];   /* packets by microseconds of lateness */

static void die(const char *what) {
    fprintf(stderr, "delay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void address(int fd, struct ifreq *r, unsigned long what, const char *text) {
    struct sockaddr_in *a = (struct sockaddr_in *)&r->ifr_addr;
    memset(a, 0, sizeof *a);
    a->sin_family = AF_INET;
    inet_pton(AF_INET, text, &a->sin_addr);
    if (ioctl(fd, what, r) < 0) die(text);
}

static void up(const char *name, const char *own) {
    struct ifreq r = { 0 };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    strncpy(r.ifr_name, name, IFNAMSIZ - 1);
    if (own) {
        address(fd, &r, SIOCSIFADDR, own);
        address(fd, &r, SIOCSIFNETMASK, "255.255.255.252");
        r.ifr_qlen = QUEUE;
        if (ioctl(fd, SIOCSIFTXQLEN, &r) < 0 && errno != EPERM) die("queue length");
    }
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &r) < 0) die(name);
    close(fd);
}

/* reno is in every kernel; a rate-based congestion control would add waits of its own between segments. */
static void plain_tcp(void) {
    int fd = open("/proc/sys/net/ipv4/tcp_congestion_control", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "reno", 4) < 0) fputs("delay: congestion control left as it is\n", stderr);
    if (fd >= 0) close(fd);
}

/* Enters a new namespace; gives a descriptor that names it and keeps it. */
static int new_namespace(void) {
    if (unshare(CLONE_NEWNET) < 0) die("a new network namespace");
    up("lo", NULL);
    plain_tcp();
    int fd = open("/proc/self/ns/net", O_RDONLY);
    if (fd < 0) die("/proc/self/ns/net");
    return fd;
}

static int new_tun(const char *own) {
    struct ifreq r = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) die("/dev/net/tun");
    strcpy(r.ifr_name, "delay");
    if (ioctl(fd, TUNSETIFF, &r) < 0) die("a TUN device");
    up("delay", own);
    return fd;
}

static void take_in(struct way *w) {
    for (;;) {
        struct waiting *p = &w->queue[w->tail % QUEUE];
        ssize_t n = read(w->from, p->bytes, MTU);
        if (n < 0) return;
        if (w->tail - w->head == QUEUE - 1) {
            lost++;
            continue;
        }
        p->size = (uint16_t)n;
        p->due = now_ns() + delay_ns;
        w->tail++;
    }
}

static void let_out(struct way *w, uint64_t now) {
    for (; w->head != w->tail && w->queue[w->head % QUEUE].due <= now; w->head++) {
        struct waiting *p = &w->queue[w->head % QUEUE];
        uint64_t late = now_ns() - p->due;
        if (write(w->to, p->bytes, p->size) < 0) lost++;
        packets++;
        if (late > late_max) late_max = late;
        lateness[late / 1000 < LATENESS_STEPS ? late / 1000 : LATENESS_STEPS - 1]++;
    }
}

static void arm(int timer, const struct way *ways) {
    uint64_t due = 0;
    for (int i = 0; i < 2; i++) {
        const struct way *w = &ways[i];
        if (w->head != w->tail && (!due || w->queue[w->head % QUEUE].due < due)) due = w->queue[w->head % QUEUE].due;
    }
    struct itimerspec when = { .it_value = { (time_t)(due / 1000000000u), (long)(due % 1000000000u) } };
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void watch(int epoll, int fd) {
    struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0) die("epoll_ctl");
}

static unsigned late_quantile(double q) {
    uint64_t seen = 0;
    for (unsigned i = 0; i < LATENESS_STEPS; i++)
        if ((seen += lateness[i]) >= (uint64_t)(q * (double)packets)) return i;
    return LATENESS_STEPS;
}

static void forward(struct way *ways, int ends) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(epoll, ends);
    watch(epoll, timer);
    for (int i = 0; i < 2 && ways[i].queue; i++) watch(epoll, ways[i].from);
    for (;;) {
        struct epoll_event event;
        uint64_t expirations;
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        if (event.data.fd == ends) return;
        if (event.data.fd == timer && read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timer");
        for (int i = 0; i < 2 && ways[i].queue; i++) {
            if (event.data.fd == ways[i].from) take_in(&ways[i]);
            let_out(&ways[i], now_ns());
        }
        arm(timer, ways);
    }
}

/* Late wake-ups would be delay that nobody asked for; where the rights for this are missing, lateness says so at the end. */
static void be_punctual(void) {
    struct sched_param first = { .sched_priority = 1 };
    prctl(PR_SET_TIMERSLACK, 1);
    sched_setscheduler(0, SCHED_FIFO, &first);
}

int main(int argc, char **argv) {
    struct way ways[2] = { 0 };
    sigset_t set;
    delay_ns = argc > 1 ? strtoull(argv[1], NULL, 10) * 1000 : 0;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int ends = signalfd(-1, &set, SFD_CLOEXEC);
    int near = new_namespace(), far = near;
    if (delay_ns) {
        int a = new_tun("10.213.0.1");
        far = new_namespace();
        int b = new_tun("10.213.0.2");
        ways[0] = (struct way){ .from = a, .to = b, .queue = calloc(QUEUE, sizeof(struct waiting)) };
        ways[1] = (struct way){ .from = b, .to = a, .queue = calloc(QUEUE, sizeof(struct waiting)) };
        be_punctual();
    }
    printf("{\"near\": \"/proc/%d/fd/%d\", \"far\": \"/proc/%d/fd/%d\", \"address\": \"%s\"}\n", getpid(), near, getpid(), far,
           delay_ns ? "10.213.0.2" : "127.0.0.1");
    fflush(stdout);
    forward(ways, ends);
    printf("{\"packets\": %llu, \"lost\": %llu, \"late_p50_us\": %u, \"late_p99_us\": %u, \"late_max_us\": %llu}\n",
           (unsigned long long)packets, (unsigned long long)lost, late_quantile(0.5), late_quantile(0.99),
           (unsigned long long)late_max / 1000);
    return 0;
}
