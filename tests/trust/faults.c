/* Counts the operations by which a process changes files below one folder, and makes the n-th of
 * them go wrong. Preloaded (LD_PRELOAD), so that every open, write, ... of Python and of PyTorch
 * passes here; armed from within by fault_arm.
 *
 *   COUNT     nothing goes wrong
 *   BEFORE    SIGKILL before the n-th operation    AFTER  behind it    HALF  of a write, half-way
 *   FAIL      the n-th operation fails with errno  FAIL_ON  and all after it but unlink
 *   COPY      the folder is copied before every operation and half-way through every write: what a
 *             SIGKILL there would leave, of all operations in one run
 *
 * TensorBoard's event files are left out: a thread of its own writes them, so their operations
 * have no fixed place among the others.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OFF = -1, COUNT, BEFORE, AFTER, HALF, FAIL, FAIL_ON, COPY };

static char folder[1024], copies[1024];
static int mode = OFF, target, error_number, count, log_file = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void fault_arm(const char *below, int how, int at, int error, const char *log, const char *to)
{
    strncpy(folder, below, sizeof folder - 1);
    strncpy(copies, to, sizeof copies - 1);
    target = at, error_number = error, count = 0;
    if (log && *log)
        log_file = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    mode = how;
}

static int watched(const char *path)
{
    return strncmp(path, folder, strlen(folder)) == 0 && !strstr(path, "tfevents");
}

static int path_watched(const char *path)
{
    char whole[2048];
    if (mode == OFF || !path)
        return 0;
    if (path[0] == '/')
        return watched(path);
    if (!getcwd(whole, 1024))
        return 0;
    strcat(whole, "/");
    strncat(whole, path, 1000);
    return watched(whole);
}

static const char *name_of(int file)
{
    static char name[1024];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    name[length > 0 ? length : 0] = 0;
    return name;
}

static int file_watched(int file)
{
    return mode != OFF && file > 2 && file != log_file && watched(name_of(file));
}

/* The folder as it is now, as copies/NUMBER-when. cp keeps hard links and times. */
static void copy_folder(const char *when)
{
    char to[1100];
    char *command[] = {"/bin/cp", "-a", folder, to, 0}, *no_preload[] = {0};
    pid_t child;
    snprintf(to, sizeof to, "%s/%05d-%s", copies, count, when);
    if (posix_spawn(&child, command[0], 0, 0, command, no_preload))
        _exit(98);
    waitpid(child, 0, 0);
}

/* Called before each operation. Returns 1 if it must fail. */
static int begins(const char *operation, const char *path)
{
    count++;
    if (log_file >= 0) {
        char line[2048];
        int length = snprintf(line, sizeof line, "%s %s\n", operation, path);
        if (REAL(write)(log_file, line, length) < 0)
            _exit(99);
    }
    if (mode == BEFORE && count == target)
        kill(getpid(), SIGKILL);
    if (mode == COPY)
        copy_folder("before");
    if ((mode == FAIL && count == target)
        || (mode == FAIL_ON && count >= target && strcmp(operation, "unlink"))) {
        errno = error_number;
        return 1;
    }
    return 0;
}

static void ended(void)
{
    if (mode == AFTER && count == target)
        kill(getpid(), SIGKILL);
}

/* The body of a wrapper: `call` is the real operation. */
#define PASS(in, operation, path, call)            \
    int in_ = (in);                                \
    if (in_ && begins(operation, path))            \
        return -1;                                 \
    __typeof__(call) result = (call);              \
    if (in_) {                                     \
        int kept = errno;                          \
        ended();                                   \
        errno = kept;                              \
    }                                              \
    return result;

#define CHANGES (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)
#define MODE_ARGUMENT                              \
    va_list arguments;                             \
    va_start(arguments, flags);                    \
    mode_t permissions = va_arg(arguments, mode_t); \
    va_end(arguments);

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...)                                         \
    {                                                                                  \
        MODE_ARGUMENT                                                                  \
        PASS((flags & CHANGES) && path_watched(path), "open", path,                    \
             REAL(name)(path, flags, permissions))                                     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                   \
    int name(int place, const char *path, int flags, ...)                              \
    {                                                                                  \
        MODE_ARGUMENT                                                                  \
        PASS((flags & CHANGES) && path_watched(path), "open", path,                    \
             REAL(name)(place, path, flags, permissions))                              \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size)
{
    int in = file_watched(file);
    if (in && mode == HALF && count + 1 == target) {
        if (REAL(write)(file, data, size / 2) >= 0)
            kill(getpid(), SIGKILL);
    }
    if (in && mode == COPY && size > 1) {
        begins("write", name_of(file));
        ssize_t first = REAL(write)(file, data, size / 2);
        if (first <= 0)
            return first;
        copy_folder("half");
        ssize_t rest = REAL(write)(file, (const char *)data + first, size - first);
        return rest < 0 ? rest : first + rest;
    }
    PASS(in, "write", name_of(file), REAL(write)(file, data, size))
}

int unlink(const char *path)
{
    PASS(path_watched(path), "unlink", path, REAL(unlink)(path))
}

int unlinkat(int place, const char *path, int flags)
{
    PASS(place == AT_FDCWD && path_watched(path), "unlink", path,
         REAL(unlinkat)(place, path, flags))
}

int rmdir(const char *path)
{
    PASS(path_watched(path), "rmdir", path, REAL(rmdir)(path))
}

int mkdir(const char *path, mode_t permissions)
{
    PASS(path_watched(path), "mkdir", path, REAL(mkdir)(path, permissions))
}

int rename(const char *from, const char *to)
{
    PASS(path_watched(to), "rename", to, REAL(rename)(from, to))
}

int renameat(int place, const char *from, int place_to, const char *to)
{
    PASS(path_watched(to), "rename", to, REAL(renameat)(place, from, place_to, to))
}

int link(const char *from, const char *to)
{
    PASS(path_watched(to), "link", to, REAL(link)(from, to))
}

int linkat(int place, const char *from, int place_to, const char *to, int flags)
{
    PASS(path_watched(to), "link", to, REAL(linkat)(place, from, place_to, to, flags))
}

int fsync(int file)
{
    PASS(file_watched(file), "fsync", name_of(file), REAL(fsync)(file))
}

int ftruncate(int file, off_t size)
{
    PASS(file_watched(file), "truncate", name_of(file), REAL(ftruncate)(file, size))
}

int ftruncate64(int file, off64_t size)
{
    PASS(file_watched(file), "truncate", name_of(file), REAL(ftruncate64)(file, size))
}
