/* The load client for responses that take long: streams (server-sent events, lines of JSON) and long polls.
 *
 * Like client.c it is one thread and one epoll, and is told what to do by lines on its standard input, ended by "go":
 *
 *   port 8001             subscribers 1000      concurrency 200     source_net 0
 *   get PATH              the request of a subscriber: {n} is its number, {1} and {2} what was carried over (below)
 *   header TEXT           of that request; left out while it needs {1} or {2} and nothing was carried over
 *   expect TEXT           a stream is ready when it has brought this
 *   polls 1               each answer is followed by the next request. Without "expect", one that waits is ready
 *   carry BEGIN|END       what stands between these in an answer is {1} of the next request; the second one is {2}.
 *                         In a path it is percent-encoded
 *   post PATH             what is published is the body of a request to this path
 *   post_header TEXT      of that request
 *   publish TEXT          the body; {mark} becomes 26 bytes with a number and the time
 *   window 4              messages under way at once, each on a connection of its own; or:
 *   rate 10               messages a second
 *   warmup 1  seconds 3   patience 60   (until all are connected)
 *
 * Without "publish" the streams are only opened and kept, until standard input ends.
 * It says "ready {json}" when all are connected, "begin" and "end {json}" around what is measured.
 */
#include "measuring.h"

#define MOST_PUBLISHERS 64
#define MOST_HEADERS 8
#define CARRIED 2
#define MOST_CARRIED 512

enum { OPENING, ASKING, READY };

struct connection {
    int fd, number, state, is_publisher, is_free;
    char carried[CARRIED][MOST_CARRIED];
    char *rest; /* of what was read: the beginning of an answer, or of a mark */
    size_t rest_size;
};

static char *get_path, *headers[MOST_HEADERS], *expect_text, *post_path, *post_headers[MOST_HEADERS], *publish_text;
static char *carry_begin[CARRIED], *carry_end[CARRIED];
static int port, subscribers, concurrency = 200, source_net, polls, window_size, publishers = 1;
static int header_count, post_header_count, carry_count;
static double rate, warmup_s = 1, seconds = 3, patience_s = 60;

static int poller, ready_count, in_flight;
static struct connection *all;
static char buffer[1 << 18];

static uint32_t received_of[RING];
static uint32_t next_number, done_number;
static uint64_t delivered, published, measured_from, measured_until, last_delivery, bytes_read, bytes_before;

/* Write the text with its places filled; false if it needs what was not carried over. */
static int filled(char *out, size_t most, const char *text, const struct connection *c, int is_path) {
    size_t at = 0;
    for (; *text; text++) {
        if (strncmp(text, "{n}", 3) == 0) {
            at += (size_t)snprintf(out + at, most - at, "%06d", c->number);
            text += 2;
        } else if (text[0] == '{' && (text[1] == '1' || text[1] == '2') && text[2] == '}') {
            const char *carried = c->carried[text[1] - '1'];
            if (!*carried && !is_path) return 0;
            for (; *carried; carried++)
                at += (size_t)snprintf(out + at, most - at, is_path ? "%%%02X" : "%c", (unsigned char)*carried);
            text += 2;
        } else if (at + 1 < most) {
            out[at++] = *text;
        }
        if (at + 8 > most) fail("a request is too long", text);
    }
    out[at] = 0;
    return 1;
}

static void ask(struct connection *c) {
    char request[MOST_BYTES], part[MOST_BYTES / 2];
    filled(part, sizeof part, get_path, c, 1);
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", part, port);
    for (int i = 0; i < header_count; i++)
        if (filled(part, sizeof part, headers[i], c, 0))
            size += snprintf(request + size, sizeof request - (size_t)size, "%s\r\n", part);
    size += snprintf(request + size, sizeof request - (size_t)size, "\r\n");
    send_all(c->fd, request, (size_t)size);
}

static void open_next(void);

static void is_ready(struct connection *c) {
    c->state = READY;
    in_flight--;
    ready_count++;
    open_next();
}

static void opened(struct connection *c) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    c->state = ASKING;
    if (c->is_publisher) {
        c->is_free = 1;
        is_ready(c);
        return;
    }
    ask(c);
    if (expect_text == NULL) is_ready(c);
}

static void open_next(void) {
    static int next;
    int total = subscribers + (publish_text != NULL ? publishers : 0);
    while (next < total && in_flight < concurrency) {
        struct connection *c = &all[next];
        c->is_publisher = next >= subscribers;
        c->number = c->is_publisher ? next - subscribers : next;
        next++;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (c->fd < 0) fail("socket", strerror(errno));
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        struct sockaddr_in a = {.sin_family = AF_INET};
        a.sin_addr.s_addr = htonl(0x7f000001u + ((uint32_t)source_net << 16) + ((uint32_t)next & 63) * 256);
        if (bind(c->fd, (struct sockaddr *)&a, sizeof a) < 0) fail("bind", strerror(errno));
        a.sin_port = htons((uint16_t)port);
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) fail("connect", strerror(errno));
        struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
        in_flight++;
    }
}

/* Publish on the first connection that is free; false if none is. */
static int say(uint64_t stamp) {
    struct connection *c = NULL;
    for (int i = 0; i < publishers && c == NULL; i++)
        if (all[subscribers + i].is_free) c = &all[subscribers + i];
    if (c == NULL) return 0;
    char request[MOST_BYTES], mark[MARK_BYTES + 1], *place = strstr(publish_text, "{mark}");
    snprintf(mark, sizeof mark, "@%08x:%016llx", next_number, (unsigned long long)stamp);
    received_of[next_number++ % RING] = 0;
    size_t length = strlen(publish_text) - 6 + MARK_BYTES;
    int size = snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %zu\r\n",
                        post_path, port, length);
    for (int i = 0; i < post_header_count; i++)
        size += snprintf(request + size, sizeof request - (size_t)size, "%s\r\n", post_headers[i]);
    size += snprintf(request + size, sizeof request - (size_t)size, "\r\n%.*s%s%s", (int)(place - publish_text),
                     publish_text, mark, place + 6);
    c->is_free = 0;
    published++;
    send_all(c->fd, request, (size_t)size);
    return 1;
}

static void take_marks(const char *data, size_t size, uint64_t now) {
    const char *at = data, *end = data + size;
    while ((at = memchr(at, '@', (size_t)(end - at))) != NULL && end - at >= MARK_BYTES) {
        if (at[9] != ':') {
            at++;
            continue;
        }
        char digits[17] = {0};
        memcpy(digits, at + 1, 8);
        uint32_t number = (uint32_t)strtoul(digits, NULL, 16);
        memcpy(digits, at + 10, 16);
        uint64_t sent = strtoull(digits, NULL, 16);
        at += MARK_BYTES;
        last_delivery = now;
        if (now >= measured_from && now < measured_until) {
            delivered++;
            if (sent >= measured_from) {
                histogram[bucket_of(now - sent)]++;
                latencies++;
                if (now - sent > longest) longest = now - sent;
            }
        }
        if (++received_of[number % RING] == (uint32_t)subscribers) done_number++;
    }
}

static void keep(struct connection *c, const char *data, size_t size) {
    char *kept = size > 0 ? malloc(size) : NULL;
    if (size > 0) memcpy(kept, data, size);
    free(c->rest);
    c->rest = kept;
    c->rest_size = size;
}

/* The size of the whole answer at the beginning of the data; 0 if it is not all there. */
static size_t answer_size(const char *data, size_t size) {
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t head = (size_t)(end - data) + 4;
    static const char name[] = "content-length:";
    for (const char *line = data; line < end; line = strstr(line, "\r\n") + 2)
        if (strncasecmp(line, name, sizeof name - 1) == 0) {
            size_t whole = head + (size_t)atol(line + sizeof name - 1);
            return whole <= size ? whole : 0;
        }
    return head; /* no body */
}

static void take_answers(struct connection *c, char *data, size_t size, uint64_t now) {
    size_t whole;
    data[size] = 0;
    while (size > 0 && (whole = answer_size(data, size)) > 0) {
        if (strncmp(data, "HTTP/1.1 2", 10) != 0) fail("an answer", data);
        if (c->is_publisher) {
            c->is_free = 1;
        } else {
            take_marks(data, whole, now);
            for (int i = 0; i < carry_count; i++) {
                char *begin = memmem(data, whole, carry_begin[i], strlen(carry_begin[i]));
                if (begin == NULL) continue;
                begin += strlen(carry_begin[i]);
                char *end = memmem(begin, whole - (size_t)(begin - data), carry_end[i], strlen(carry_end[i]));
                if (end == NULL || end - begin >= MOST_CARRIED) fail("carry", carry_begin[i]);
                memcpy(c->carried[i], begin, (size_t)(end - begin));
                c->carried[i][end - begin] = 0;
            }
            if (c->state == ASKING && memmem(data, whole, expect_text, strlen(expect_text)) != NULL) is_ready(c);
            ask(c);
        }
        data += whole;
        size -= whole;
    }
    keep(c, data, size);
}

static void take_stream(struct connection *c, const char *data, size_t size, uint64_t now) {
    if (c->state == ASKING) {
        if (size >= 12 && strncmp(data, "HTTP/1.1 200", 12) != 0 && c->rest_size == 0) fail("an answer", data);
        if (memmem(data, size, expect_text, strlen(expect_text)) == NULL) {
            keep(c, data, size);
            return;
        }
        keep(c, NULL, 0);
        is_ready(c);
        return;
    }
    take_marks(data, size, now);
    /* The beginning of a mark at the end. */
    size_t from = size > MARK_BYTES - 1 ? size - (MARK_BYTES - 1) : 0;
    const char *begin = memrchr(data + from, '@', size - from);
    if (begin == NULL && c->rest == NULL) return;
    keep(c, begin, begin == NULL ? 0 : (size_t)(data + size - begin));
}

static void readable(struct connection *c, uint64_t now) {
    size_t kept = c->rest_size;
    if (kept > sizeof buffer / 2) fail("an answer is too long", "128 KiB");
    if (kept > 0) memcpy(buffer, c->rest, kept);
    ssize_t got = recv(c->fd, buffer + kept, sizeof buffer - kept - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a connection ended", got == 0 ? "closed by the server" : strerror(errno));
    size_t size = kept + (size_t)got;
    if (c->is_publisher || polls) {
        if (!c->is_publisher) bytes_read += (uint64_t)got;
        take_answers(c, buffer, size, now);
    } else {
        bytes_read += (uint64_t)got;
        buffer[size] = 0;
        take_stream(c, buffer, size, now);
    }
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
            opened(c);
        else
            readable(c, now);
    }
}

static void read_orders(void) {
    static char line[MOST_BYTES / 2];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "go") == 0) return;
        char *value = strchr(line, ' ');
        if (value == NULL) fail("not understood", line);
        *value++ = 0;
        if (strcmp(line, "port") == 0) port = atoi(value);
        else if (strcmp(line, "subscribers") == 0) subscribers = atoi(value);
        else if (strcmp(line, "concurrency") == 0) concurrency = atoi(value);
        else if (strcmp(line, "source_net") == 0) source_net = atoi(value);
        else if (strcmp(line, "polls") == 0) polls = atoi(value);
        else if (strcmp(line, "window") == 0) window_size = atoi(value);
        else if (strcmp(line, "rate") == 0) rate = atof(value);
        else if (strcmp(line, "warmup") == 0) warmup_s = atof(value);
        else if (strcmp(line, "seconds") == 0) seconds = atof(value);
        else if (strcmp(line, "patience") == 0) patience_s = atof(value);
        else if (strcmp(line, "get") == 0) get_path = strdup(value);
        else if (strcmp(line, "expect") == 0) expect_text = strdup(value);
        else if (strcmp(line, "post") == 0) post_path = strdup(value);
        else if (strcmp(line, "publish") == 0) publish_text = strdup(value);
        else if (strcmp(line, "header") == 0 && header_count < MOST_HEADERS) headers[header_count++] = strdup(value);
        else if (strcmp(line, "post_header") == 0 && post_header_count < MOST_HEADERS)
            post_headers[post_header_count++] = strdup(value);
        else if (strcmp(line, "carry") == 0 && carry_count < CARRIED) {
            carry_begin[carry_count] = strdup(value);
            char *end = strchr(carry_begin[carry_count], '|');
            if (end == NULL) fail("carry", "BEGIN|END");
            *end++ = 0;
            carry_end[carry_count++] = strcmp(end, "line") == 0 ? "\r\n" : end;
        } else fail("not understood", line);
    }
    fail("orders", "no 'go'");
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_orders();
    poller = epoll_create1(0);
    publishers = window_size > 0 ? window_size : 16;
    if (publishers > MOST_PUBLISHERS) fail("window", "1 to 64");
    if (!polls && expect_text == NULL) fail("expect", "a stream needs one");
    if (publish_text != NULL && strstr(publish_text, "{mark}") == NULL) fail("publish", "no {mark}");
    int total = subscribers + (publish_text != NULL ? publishers : 0);
    all = calloc((size_t)(subscribers + publishers), sizeof *all);
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
            bytes_before = bytes_read;
            printf("begin\n");
        }
        if (now >= measured_until) break;
        if (now - last_delivery > 10000000000ull && rate == 0) fail("10 s", "without a delivery");
        uint64_t timeout_ns = 100000000;
        if (rate > 0) {
            uint64_t gap = (uint64_t)(1e9 / rate);
            while (sent_until <= now && say(sent_until)) sent_until += gap;
            timeout_ns = sent_until > now ? sent_until - now : 1000000;
        } else {
            while (next_number - done_number < (uint32_t)window_size && say(now_ns())) continue;
        }
        wait_for_events(timeout_ns);
    }
    printf("end {\"seconds\": %.4f, \"delivered\": %llu, \"published\": %llu, \"bytes\": %llu, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"longest_us\": %.1f, \"client_cpu\": %.3f}\n",
           seconds, (unsigned long long)delivered, (unsigned long long)(published - published_before),
           (unsigned long long)(bytes_read - bytes_before), percentile_us(0.5), percentile_us(0.99), (double)longest / 1e3,
           (cpu_s() - cpu_before) / seconds);
    return 0;
}
