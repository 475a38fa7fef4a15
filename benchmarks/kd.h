/* Frames of the KD serial protocol (KD protocol, 1.1-1.4), shared by target.c and debugger.c. */
#ifndef KD_H
#define KD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { MANIPULATE = 2, DEBUG_IO = 3, ACKNOWLEDGE = 4, RESEND = 5, RESET = 6, STATE_CHANGE64 = 7 };
enum { READ_VIRTUAL = 0x3130, WRITE_VIRTUAL = 0x3131, CONTINUE = 0x3136, REBOOT = 0x313B, CONTINUE2 = 0x313C,
       READ_PHYSICAL = 0x313D, WRITE_PHYSICAL = 0x313E, GET_VERSION = 0x3146, CAUSE_BUG_CHECK = 0x3149,
       SWITCH_PROCESSOR = 0x3150, CLEAR_ALL_INTERNAL_BREAKPOINTS = 0x315A };
enum { HEADER = 16, MAX_PAYLOAD = 4000, MANIPULATE_FIXED = 56, STATE_CHANGE_FIXED = 240, PRINT_FIXED = 16,
       MAX_FRAME = HEADER + MAX_PAYLOAD + 1, MAX_READ = MAX_PAYLOAD - MANIPULATE_FIXED };

#define INITIAL_ID 0x80800000u
#define SYNC_BIT 0x800u
#define UNSUCCESSFUL 0xC0000001u

/* x86 and arm64 are little-endian, so fields are copied as they are. */
static inline uint16_t get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static inline uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline uint64_t get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
static inline void put16(uint8_t *at, uint16_t v) { memcpy(at, &v, 2); }
static inline void put32(uint8_t *at, uint32_t v) { memcpy(at, &v, 4); }
static inline void put64(uint8_t *at, uint64_t v) { memcpy(at, &v, 8); }

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint32_t kd_sum(const uint8_t *data, size_t size) {
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) sum += data[i];
    return sum;
}

/* A data frame around a payload that already lies at frame + HEADER; gives the frame's size. */
static inline size_t kd_data(uint8_t *frame, uint16_t type, uint32_t id, size_t size) {
    put32(frame, 0x30303030u);
    put16(frame + 4, type);
    put16(frame + 6, (uint16_t)size);
    put32(frame + 8, id);
    put32(frame + 12, kd_sum(frame + HEADER, size));
    frame[HEADER + size] = 0xAA;
    return HEADER + size + 1;
}

static inline size_t kd_control(uint8_t *frame, uint16_t type, uint32_t id) {
    memset(frame, 0, HEADER);
    put32(frame, 0x69696969u);
    put16(frame + 4, type);
    put32(frame + 8, id);
    return HEADER;
}

/* Memory of every target: the byte at address a is (a * 7 + (a >> 8)) & 0xff, which repeats every 64 KiB. */
static uint8_t kd_pattern[65536 + MAX_PAYLOAD];

static inline void kd_make_pattern(void) {
    for (size_t a = 0; a < sizeof kd_pattern; a++) kd_pattern[a] = (uint8_t)((a & 0xffff) * 7 + ((a & 0xffff) >> 8));
}

static inline const uint8_t *kd_memory(uint64_t address) { return kd_pattern + (address & 0xffff); }

struct reader { size_t start, end; bool break_seen; uint8_t bytes[4 * MAX_FRAME]; };
struct packet { uint16_t type; uint16_t size; uint32_t id; const uint8_t *payload; };
enum found { NOTHING, CONTROL, DATA, BAD };

/* Room for the next read; what is left of an unfinished frame moves to the front. */
static inline uint8_t *reader_room(struct reader *r, size_t *room) {
    if (r->start) {
        memmove(r->bytes, r->bytes + r->start, r->end - r->start);
        r->end -= r->start;
        r->start = 0;
    }
    *room = sizeof r->bytes - r->end;
    return r->bytes + r->end;
}

/* The next whole frame; payload stays valid until reader_room(). break_seen is set by a `b` outside frames. */
static inline enum found reader_next(struct reader *r, struct packet *p) {
    while (r->start < r->end) {
        const uint8_t *at = r->bytes + r->start;
        size_t have = r->end - r->start;
        if (*at != 0x30 && *at != 0x69) {
            r->break_seen = *at == 'b';
            r->start++;
            continue;
        }
        size_t run = 1;
        while (run < 4 && run < have && at[run] == *at) run++;
        if (run < 4 && run < have) {
            r->start += run;
            continue;
        }
        if (have < HEADER) return NOTHING;
        p->type = get16(at + 4);
        p->size = get16(at + 6);
        p->id = get32(at + 8);
        p->payload = at + HEADER;
        if (*at == 0x69) {
            r->start += HEADER;
            return CONTROL;
        }
        if (p->size > MAX_PAYLOAD) {
            r->start += HEADER;
            return BAD;
        }
        if (have < HEADER + (size_t)p->size + 1) return NOTHING;
        r->start += HEADER + (size_t)p->size + 1;
        if (p->payload[p->size] != 0xAA || get32(at + 12) != kd_sum(p->payload, p->size)) return BAD;
        return DATA;
    }
    return NOTHING;
}

#endif
