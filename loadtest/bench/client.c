/* The load client of the benchmark: one thread, one epoll, as little work for each message as can be.
 *
 * It is told what to do by lines on its standard input, "name value", ended by "go":
 *
 *   port 8001             subscribers 1000      stalled 0           concurrency 200     first 0  (the first one's number)
 *   pub_port 8002         publishers 1          (another replica for those who publish)
 *   sub_path /ws?user=u{n}    sub_send TEXT     sub_expect TEXT     (steps, in order; {n} is the number of a connection)
 *   other_path ...            other_send TEXT   other_expect TEXT   (every second subscriber, if there is such a path)
 *   pub_path ...              pub_send TEXT     pub_expect TEXT
 *   publish TEXT          what a publisher sends; {mark} becomes 26 bytes with a number and the time
 *   addressed 1           each message is for one subscriber, whose number replaces {n} in it; they take turns, and
 *                         publisher 0 begins with subscriber 0, 1 with 1 (otherwise all subscribers get each message)
 *   answer TEXT|REPLY     a frame that is TEXT is answered with REPLY
 *   compressed 1          subscribers offer permessage-deflate; a frame that many get is inflated once
 *   pings 1               each message is a WebSocket ping, from the subscriber itself; the server's pong brings it back
 *   window 4              messages under way at once (addressed: from each publisher); or:
 *   rate 10               messages a second
 *   warmup 1  seconds 3   patience 60   (until all are connected)
 *
 * Without "publish" the connections are only opened and kept, until standard input ends.
 * It says "ready {json}" when all are connected, "begin" and "end {json}" around what is measured.
 */
#include "measuring.h"
#include <zlib.h>

#define STEPS 8
#define PUBLISHERS 1024
#define INFLATED 64 /* different compressed payloads that are remembered */

#define OFFER \
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"

enum { OPENING, SHAKING, STEPPING, READY };

struct step {
    int is_send;
    char *text;
};

struct role {
    char *path;
    struct step steps[STEPS];
    int count;
};

struct connection {
    int fd, number, state, step, is_publisher;
    unsigned char *rest; /* the beginning of a frame */
    size_t rest_size;
};

static struct role subscriber, other, publisher;
static char *publish_text, *answer_text, *answer_reply;
static int port, pub_port, subscribers, publishers = 1, addressed, first, pings, compressed, stalled, concurrency = 200, window_size, source_net;
static double rate, warmup_s = 1, seconds = 3, patience_s = 60;

static int poller, ready_count, in_flight;
static struct connection *all;
static unsigned char buffer[1 << 18];

static uint32_t received_of[RING];
static int under_way_of[PUBLISHERS]; /* addressed */
static uint32_t next_number, done_number;
static uint64_t delivered, published, measured_from, measured_until, last_delivery;
static uint64_t other_frames, received_bytes, inflated_frames, compressed_frames;

/* What was inflated: the same bytes for every subscriber. */
static struct inflated {
    unsigned char raw[MOST_BYTES], text[2 * MOST_BYTES];
    size_t raw_size, text_size;
} inflated[INFLATED];
static int newest;
static uint32_t expected_each;

static char *expanded(const char *text, const char *name, const char *value) {
    char *found = strstr(text, name), *out;
    if (found == NULL) return strdup(text);
    if (asprintf(&out, "%.*s%s%s", (int)(found - text), text, value, found + strlen(name)) < 0) exit(1);
    return out;
}

static void send_frame(int fd, int opcode, const char *text, size_t size) {
    unsigned char frame[MOST_BYTES + 16];
    size_t head = 2;
    if (size > MOST_BYTES) fail("a frame is too long", text);
    frame[0] = (unsigned char)(0x80 | opcode);
    if (size < 126) {
        frame[1] = (unsigned char)(0x80 | size);
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
        head = 4;
    }
    memset(frame + head, 0, 4); /* a mask of zeros */
    memcpy(frame + head + 4, text, size);
    send_all(fd, frame, head + 4 + size);
}

static char *numbered(const char *text, int number) {
    char digits[16];
    snprintf(digits, sizeof digits, "%06d", number);
    return expanded(text, "{n}", digits);
}

static void say(int by, int to, uint64_t stamp) {
    char mark[MARK_BYTES + 1];
    snprintf(mark, sizeof mark, "@%08x:%016llx", next_number, (unsigned long long)stamp);
    char *marked = expanded(publish_text, "{mark}", mark), *text = numbered(marked, first + to);
    received_of[next_number++ % RING] = 0;
    under_way_of[by]++;
    send_frame(all[pings ? to : subscribers + by].fd, pings ? 9 : 1, text, strlen(text));
    published++;
    free(marked);
    free(text);
}

static void fill_windows(void) {
    if (addressed) {
        for (int by = 0; by < publishers; by++)
            while (under_way_of[by] < window_size) say(by, by, now_ns());
    } else {
        while (next_number - done_number < (uint32_t)window_size) say(0, 0, now_ns());
    }
}

static void open_next(void) {
    static int next, subscribed;
    while (next < subscribers + publishers && in_flight < concurrency && (next < subscribers || publish_text != NULL)) {
        if (next == subscribers && in_flight > 0 && !subscribed) return; /* publishers come last */
        subscribed = next >= subscribers;
        struct connection *c = &all[next];
        c->is_publisher = next >= subscribers;
        c->number = c->is_publisher ? next - subscribers : next;
        next++;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (c->fd < 0) fail("socket", strerror(errno));
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        int little = 2048;
        if (!c->is_publisher && c->number < stalled) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        struct sockaddr_in a = {.sin_family = AF_INET};
        a.sin_addr.s_addr = htonl(0x7f000001u + ((uint32_t)source_net << 16) + ((uint32_t)next & 63) * 256);
        if (bind(c->fd, (struct sockaddr *)&a, sizeof a) < 0) fail("bind", strerror(errno));
        a.sin_port = htons((uint16_t)(c->is_publisher ? pub_port : port));
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) fail("connect", strerror(errno));
        struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
        in_flight++;
    }
}

static struct role *role_of(const struct connection *c) {
    if (c->is_publisher) return &publisher;
    return other.path != NULL && c->number % 2 ? &other : &subscriber;
}

static void shake(struct connection *c) {
    char request[2048], *path = numbered(role_of(c)->path, first + c->number);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                        path, port, compressed && !c->is_publisher ? OFFER : "");
    free(path);
    send_all(c->fd, request, (size_t)size);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    c->state = SHAKING;
}

/* Say what is to be said until something is to be heard. */
static void go_on(struct connection *c) {
    struct role *role = role_of(c);
    while (c->step < role->count && role->steps[c->step].is_send) {
        char *text = numbered(role->steps[c->step++].text, first + c->number);
        send_frame(c->fd, 1, text, strlen(text));
        free(text);
    }
    if (c->step < role->count) return;
    c->state = READY;
    in_flight--;
    ready_count++;
    if (!c->is_publisher && c->number < stalled) epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    open_next();
}

static void take_text(struct connection *c, const unsigned char *text, size_t size, uint64_t now) {
    if (c->state == STEPPING) {
        struct step *step = &role_of(c)->steps[c->step];
        if (memmem(text, size, step->text, strlen(step->text)) != NULL) {
            c->step++;
            go_on(c);
        }
        return;
    }
    const unsigned char *mark = c->is_publisher ? NULL : memchr(text, '@', size);
    if (mark == NULL || size - (size_t)(mark - text) < MARK_BYTES || mark[9] != ':') {
        other_frames++;
        if (answer_text != NULL && size == strlen(answer_text) && memcmp(text, answer_text, size) == 0)
            send_frame(c->fd, 1, answer_reply, strlen(answer_reply));
        return;
    }
    char digits[17] = {0};
    memcpy(digits, mark + 1, 8);
    uint32_t number = (uint32_t)strtoul(digits, NULL, 16);
    memcpy(digits, mark + 10, 16);
    uint64_t sent = strtoull(digits, NULL, 16);
    last_delivery = now;
    if (now >= measured_from && now < measured_until) {
        delivered++;
        if (sent >= measured_from) {
            histogram[bucket_of(now - sent)]++;
            latencies++;
            if (now - sent > longest) longest = now - sent;
        }
    }
    if (addressed) under_way_of[c->number % publishers]--;
    if (++received_of[number % RING] == expected_each) done_number++;
}

static const struct inflated *inflate_payload(const unsigned char *raw, size_t size) {
    compressed_frames++;
    for (int i = 0; i < INFLATED; i++) {
        const struct inflated *known = &inflated[(newest - i + INFLATED) % INFLATED];
        if (known->raw_size == size && memcmp(known->raw, raw, size) == 0) return known;
    }
    if (size > MOST_BYTES) fail("a compressed frame is too long", "");
    newest = (newest + 1) % INFLATED;
    struct inflated *one = &inflated[newest];
    z_stream z = {0};
    if (inflateInit2(&z, -15) != Z_OK) fail("inflate", "");
    z.next_in = (unsigned char *)raw;
    z.avail_in = (unsigned)size;
    z.next_out = one->text;
    z.avail_out = sizeof one->text;
    int answer = inflate(&z, Z_SYNC_FLUSH);
    if (answer != Z_OK && answer != Z_BUF_ERROR && answer != Z_STREAM_END) fail("inflate", z.msg ? z.msg : "");
    one->text_size = sizeof one->text - z.avail_out;
    inflateEnd(&z);
    memcpy(one->raw, raw, size);
    one->raw_size = size;
    inflated_frames++;
    return one;
}

static void take(struct connection *c, unsigned char *data, size_t size, uint64_t now) {
    size_t at = 0;
    while (size - at >= 2) {
        size_t head = 2, length = data[at + 1] & 0x7f;
        if (length == 126) {
            if (size - at < 4) break;
            length = (size_t)data[at + 2] << 8 | data[at + 3];
            head = 4;
        } else if (length == 127) {
            if (size - at < 10) break;
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | data[at + i];
            head = 10;
        }
        if (size - at < head + length) break;
        int opcode = data[at] & 0x0f;
        if (now >= measured_from && now < measured_until && !c->is_publisher) received_bytes += head + length;
        if (opcode == 1 && data[at] & 0x40) {
            const struct inflated *one = inflate_payload(data + at + head, length);
            take_text(c, one->text, one->text_size, now);
        } else if (opcode == 1 || (opcode == 10 && pings))
            take_text(c, data + at + head, length, now);
        else if (opcode == 9)
            send_frame(c->fd, 10, (char *)data + at + head, length);
        else if (opcode == 8)
            fail("the server closed a connection", c->is_publisher ? "the publisher's" : "a subscriber's");
        at += head + length;
    }
    size_t rest = size - at;
    if (rest > 0) {
        unsigned char *kept = malloc(rest);
        memcpy(kept, data + at, rest);
        free(c->rest);
        c->rest = kept;
    } else if (c->rest != NULL) {
        free(c->rest);
        c->rest = NULL;
    }
    c->rest_size = rest;
}

static void readable(struct connection *c, uint64_t now) {
    size_t kept = c->rest_size;
    if (kept > 0) memcpy(buffer, c->rest, kept);
    ssize_t got = recv(c->fd, buffer + kept, sizeof buffer - kept - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a connection ended", got == 0 ? "closed by the server" : strerror(errno));
    size_t size = kept + (size_t)got;
    unsigned char *data = buffer;
    if (c->state == SHAKING) {
        unsigned char *end = memmem(buffer, size, "\r\n\r\n", 4);
        if (end == NULL) {
            free(c->rest);
            c->rest = malloc(size);
            memcpy(c->rest, buffer, size);
            c->rest_size = size;
            return;
        }
        buffer[size] = 0;
        if (memmem(buffer, size, " 101 ", 5) == NULL) fail("the handshake was refused", (char *)buffer);
        free(c->rest);
        c->rest = NULL;
        c->rest_size = 0;
        data = end + 4;
        size -= (size_t)(data - buffer);
        c->state = STEPPING;
        go_on(c);
    }
    take(c, data, size, now);
}

static void wait_for_events(uint64_t timeout_ns) {
    struct epoll_event events[512];
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u), .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int count = epoll_pwait2(poller, events, 512, &timeout, NULL);
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c == NULL) exit(0); /* standard input has ended */
        if (c->state == OPENING)
            shake(c);
        else
            readable(c, now);
    }
}

static void add_step(struct role *role, int is_send, const char *text) {
    if (role->count == STEPS) fail("too many steps", text);
    role->steps[role->count++] = (struct step){.is_send = is_send, .text = strdup(text)};
}

static void read_orders(void) {
    static char line[2 * MOST_BYTES];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "go") == 0) return;
        char *value = strchr(line, ' ');
        if (value == NULL) fail("not understood", line);
        *value++ = 0;
        if (strcmp(line, "port") == 0) port = atoi(value);
        else if (strcmp(line, "pub_port") == 0) pub_port = atoi(value);
        else if (strcmp(line, "publishers") == 0) publishers = atoi(value);
        else if (strcmp(line, "addressed") == 0) addressed = atoi(value);
        else if (strcmp(line, "pings") == 0) pings = atoi(value);
        else if (strcmp(line, "compressed") == 0) compressed = atoi(value);
        else if (strcmp(line, "first") == 0) first = atoi(value);
        else if (strcmp(line, "patience") == 0) patience_s = atof(value);
        else if (strcmp(line, "subscribers") == 0) subscribers = atoi(value);
        else if (strcmp(line, "stalled") == 0) stalled = atoi(value);
        else if (strcmp(line, "concurrency") == 0) concurrency = atoi(value);
        else if (strcmp(line, "source_net") == 0) source_net = atoi(value);
        else if (strcmp(line, "window") == 0) window_size = atoi(value);
        else if (strcmp(line, "rate") == 0) rate = atof(value);
        else if (strcmp(line, "warmup") == 0) warmup_s = atof(value);
        else if (strcmp(line, "seconds") == 0) seconds = atof(value);
        else if (strcmp(line, "sub_path") == 0) subscriber.path = strdup(value);
        else if (strcmp(line, "other_path") == 0) other.path = strdup(value);
        else if (strcmp(line, "pub_path") == 0) publisher.path = strdup(value);
        else if (strcmp(line, "sub_send") == 0) add_step(&subscriber, 1, value);
        else if (strcmp(line, "sub_expect") == 0) add_step(&subscriber, 0, value);
        else if (strcmp(line, "other_send") == 0) add_step(&other, 1, value);
        else if (strcmp(line, "other_expect") == 0) add_step(&other, 0, value);
        else if (strcmp(line, "pub_send") == 0) add_step(&publisher, 1, value);
        else if (strcmp(line, "pub_expect") == 0) add_step(&publisher, 0, value);
        else if (strcmp(line, "publish") == 0) publish_text = strdup(value);
        else if (strcmp(line, "answer") == 0) {
            answer_text = strdup(value);
            answer_reply = strchr(answer_text, '|');
            if (answer_reply == NULL) fail("answer", "TEXT|REPLY");
            *answer_reply++ = 0;
        } else fail("not understood", line);
    }
    fail("orders", "no 'go'");
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_orders();
    poller = epoll_create1(0);
    if (pub_port == 0) pub_port = port;
    if (publishers < 1 || publishers > PUBLISHERS) fail("publishers", "1 to 1024");
    int total = subscribers + (publish_text != NULL ? publishers : 0);
    all = calloc((size_t)(subscribers + publishers), sizeof *all);
    expected_each = (uint32_t)(subscribers - stalled);
    uint64_t began = now_ns();
    open_next();
    while (ready_count < total) {
        wait_for_events(1000000000);
        if ((double)(now_ns() - began) > patience_s * 1e9) fail("out of patience", "not everybody is connected");
    }
    printf("ready {\"connect_s\": %.4f, \"connections\": %d}\n", (double)(now_ns() - began) / 1e9, ready_count);
    if (publish_text == NULL) {
        struct epoll_event e = {.events = EPOLLIN | EPOLLHUP, .data.ptr = NULL};
        fcntl(0, F_SETFL, O_NONBLOCK);
        epoll_ctl(poller, EPOLL_CTL_ADD, 0, &e);
        for (;;) wait_for_events(1000000000);
    }
    uint64_t start = now_ns(), sent_until = start;
    measured_from = start + (uint64_t)(warmup_s * 1e9);
    measured_until = measured_from + (uint64_t)(seconds * 1e9);
    last_delivery = start;
    int begun = 0;
    double cpu_before = 0;
    uint64_t published_before = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (!begun && now >= measured_from) {
            begun = 1;
            cpu_before = cpu_s();
            published_before = published;
            printf("begin\n");
        }
        if (now >= measured_until) break;
        if (now - last_delivery > 10000000000ull && rate == 0) fail("10 s", "without a delivery");
        uint64_t timeout_ns = 100000000;
        if (rate > 0) {
            uint64_t gap = (uint64_t)(1e9 / rate);
            while (sent_until <= now) {
                int number = (int)next_number;
                say(number % publishers, number % subscribers, sent_until);
                sent_until += gap;
            }
            if (sent_until - now < timeout_ns) timeout_ns = sent_until - now;
        } else {
            fill_windows();
        }
        wait_for_events(timeout_ns);
    }
    printf("end {\"seconds\": %.4f, \"delivered\": %llu, \"published\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"longest_us\": %.1f, \"other_frames\": %llu, \"client_cpu\": %.3f, "
           "\"bytes\": %llu, \"compressed_frames\": %llu, \"inflated_frames\": %llu}\n",
           seconds, (unsigned long long)delivered, (unsigned long long)(published - published_before),
           percentile_us(0.5), percentile_us(0.99), percentile_us(0.999), (double)longest / 1e3, (unsigned long long)other_frames,
           (cpu_s() - cpu_before) / seconds, (unsigned long long)received_bytes, (unsigned long long)compressed_frames,
           (unsigned long long)inflated_frames);
    return 0;
}
