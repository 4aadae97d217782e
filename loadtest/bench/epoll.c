/* The bound: a WebSocket server in C that does nothing but this. What the publisher (path /pub) sends goes to every
 * other connection, framed once, with one send() for each message and socket. No limits, no order kept for a slow reader
 * (it is dropped), no Redis.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 65536

static const char RESPONSE[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02{}";

static int open_fds[MOST], count, is_subscriber[MOST], is_open[MOST];
static unsigned char buffer[1 << 16];

static void fan_out(const unsigned char *payload, size_t size) {
    unsigned char frame[4200];
    size_t head = size < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = (unsigned char)(size < 126 ? size : 126);
    if (head == 4) {
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
    }
    memcpy(frame + head, payload, size);
    for (int i = 0; i < count; i++)
        if (is_subscriber[open_fds[i]]) send(open_fds[i], frame, head + size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int main(int argc, char **argv) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (argc < 2) return 2;
    a.sin_port = htons((uint16_t)atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 4096) < 0) return 1;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    e.data.fd = fd;
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            ssize_t got = recv(fd, buffer, sizeof buffer - 1, 0);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                for (int j = 0; j < count; j++)
                    if (open_fds[j] == fd) open_fds[j] = open_fds[--count];
                is_open[fd] = is_subscriber[fd] = 0;
                close(fd);
                continue;
            }
            if (!is_open[fd]) {
                buffer[got] = 0;
                if (strncmp((char *)buffer, "GET ", 4) != 0) {
                    close(fd);
                    continue;
                }
                is_open[fd] = 1;
                is_subscriber[fd] = strncmp((char *)buffer + 4, "/pub", 4) != 0;
                open_fds[count++] = fd;
                send(fd, RESPONSE, sizeof RESPONSE - 1, MSG_NOSIGNAL);
                continue;
            }
            for (ssize_t at = 0; got - at >= 6;) {
                size_t head = 2, length = buffer[at + 1] & 0x7f;
                if (length == 126) {
                    length = (size_t)buffer[at + 2] << 8 | buffer[at + 3];
                    head = 4;
                }
                if ((buffer[at] & 0x0f) == 1) fan_out(buffer + at + head + 4, length); /* the mask is zeros */
                at += (ssize_t)(head + 4 + length);
            }
        }
    }
}
