/* peak FILE COMMAND [ARGUMENT...]: runs COMMAND, writes its peak resident memory in KiB to FILE, exits as it did.
 *
 * The kernel's own figure, which it hands over when a process ends, and to its parent alone. Polling /proc would miss the
 * last moment; GNU time, python and perl are not everywhere; a C compiler is, for setup.sh asks for one. And what the
 * parent holds when it forks counts as the child's, so the parent has to be small: no shell and no interpreter is. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    struct rusage usage;
    int status;
    FILE *file;
    pid_t child;

    if (count < 3)
        return 2;
    child = fork();
    if (child == 0) {
        execvp(arguments[2], arguments + 2);
        perror(arguments[2]);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("peak");
        return 1;
    }
    file = fopen(arguments[1], "w");
    if (!file || fprintf(file, "%ld\n", usage.ru_maxrss) < 0 || fclose(file)) {
        perror(arguments[1]);
        return 1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
