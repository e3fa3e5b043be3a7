/* A stand-in for libnvidia-ml.so.1: the functions of NVML that the sampler calls, with answers from a script.

   The script is the file named by NVML_STUB_SCRIPT, read again whenever it changes. A line is
       FUNCTION[@CARD[.SLICE]] ANSWER ANSWER ...
   and the n-th call gets the n-th answer, the calls after the last answer that one again. An answer is a value (below,
   at each function), `!CODE` an error, `~MS` to hang for so long and then answer as if nothing had been written, and
   `=` to answer so at once. Without a line: two healthy cards that are half busy.

   stub_opens() tells how often the library is open at the moment, stub_calls(FUNCTION) how often that was called. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       TIMEOUT = 10, VERSION_MISMATCH = 25 };
enum { CARDS = 16, SLICES = 8, RULES = 256, ANSWER = 8192, SCRIPT = 1 << 18 };

typedef struct { int card, slice; } Device;                 /* slice -1: the whole card */
typedef unsigned long long u64;
typedef struct { char key[96], *answers[256]; int count, next; } Rule;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Device devices[CARDS][SLICES + 1];
static Rule rules[RULES];
static int rule_count, opens;
static char script[SCRIPT];
static struct timespec script_time;
static struct { char name[64]; int calls; } calls[64];

/* --- the script -------------------------------------------------------------------------------------------------- */

static void read_script(void) {
    const char *path = getenv("NVML_STUB_SCRIPT");
    struct stat now;
    if (!path || stat(path, &now) || !memcmp(&now.st_mtim, &script_time, sizeof script_time)) return;
    script_time = now.st_mtim;
    rule_count = 0;
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(script, 1, SCRIPT - 1, file) : 0;
    if (file) fclose(file);
    script[size] = 0;
    char *rest_of_script, *rest;
    for (char *line = strtok_r(script, "\n", &rest_of_script); line; line = strtok_r(NULL, "\n", &rest_of_script)) {
        char *word = strtok_r(line, " ", &rest);
        if (!word || rule_count == RULES) continue;
        Rule *rule = &rules[rule_count++];
        memset(rule, 0, sizeof *rule);
        snprintf(rule->key, sizeof rule->key, "%s", word);
        while (rule->count < 256 && (word = strtok_r(NULL, " ", &rest))) rule->answers[rule->count++] = word;
    }
}

static Rule *rule_for(const char *function, const Device *device) {
    char key[96];
    if (device && device->slice < 0) snprintf(key, sizeof key, "%s@%d", function, device->card);
    else if (device) snprintf(key, sizeof key, "%s@%d.%d", function, device->card, device->slice);
    for (int i = 0; device && i < rule_count; i++) if (!strcmp(rules[i].key, key)) return &rules[i];
    for (int i = 0; i < rule_count; i++) if (!strcmp(rules[i].key, function)) return &rules[i];
    return NULL;
}

static void count_call(const char *function) {
    int i = 0;
    while (i < 63 && calls[i].calls && strcmp(calls[i].name, function)) i++;
    snprintf(calls[i].name, sizeof calls[i].name, "%s", function);
    calls[i].calls++;
}

/* The error that the script wants, or 0 and in `answer` its value, empty where it says nothing. */
static int draw(const char *function, const Device *device, char *answer) {
    int code = SUCCESS;
    *answer = 0;
    pthread_mutex_lock(&lock);
    count_call(function);
    read_script();
    Rule *rule = rule_for(function, device);
    if (!opens && strncmp(function, "nvmlInit", 8)) code = UNINITIALIZED;
    else if (rule && rule->count) {
        snprintf(answer, ANSWER, "%s", rule->answers[rule->next]);
        if (rule->next < rule->count - 1) rule->next++;
    }
    pthread_mutex_unlock(&lock);
    if (*answer == '~') usleep(1000 * atoi(answer + 1));
    if (*answer == '!') code = atoi(answer + 1);
    if (code || *answer == '~' || *answer == '=') *answer = 0;
    return code;
}

/* A text with `_` for its spaces. */
static void give(char *out, unsigned size, const char *text) {
    snprintf(out, size, "%s", text);
    for (; *out; out++) if (*out == '_') *out = ' ';
}

int stub_opens(void) { return opens; }

int stub_calls(const char *function) {
    for (int i = 0; i < 64; i++) if (!strcmp(calls[i].name, function)) return calls[i].calls;
    return 0;
}

/* --- opening ----------------------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    char answer[ANSWER];
    int code = draw("nvmlInitWithFlags", NULL, answer);
    (void)flags;
    if (code) return code;
    pthread_mutex_lock(&lock);
    opens++;
    for (int card = 0; card < CARDS; card++)
        for (int place = 0; place <= SLICES; place++) devices[card][place] = (Device){card, place - 1};
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int nvmlShutdown(void) {
    char answer[ANSWER];
    int code = draw("nvmlShutdown", NULL, answer);
    pthread_mutex_lock(&lock);
    if (!code) opens--;
    pthread_mutex_unlock(&lock);
    return code;
}

const char *nvmlErrorString(int code) { (void)code; return "An error of the stand-in"; }

/* --- the system --------------------------------------------------------------------------------------------------- */

/* A version; 550.54.15. */
int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    char answer[ANSWER];
    int code = draw("nvmlSystemGetDriverVersion", NULL, answer);
    give(version, size, *answer ? answer : "550.54.15");
    return code;
}

/* Thousands of the major version, tens of the minor one; 12040. */
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    char answer[ANSWER];
    int code = draw("nvmlSystemGetCudaDriverVersion_v2", NULL, answer);
    *version = *answer ? atoi(answer) : 12040;
    return code;
}

/* --- devices ------------------------------------------------------------------------------------------------------ */

/* How many cards; 2. */
int nvmlDeviceGetCount_v2(unsigned *count) {
    char answer[ANSWER];
    int code = draw("nvmlDeviceGetCount_v2", NULL, answer);
    *count = *answer ? atoi(answer) : 2;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    char answer[ANSWER];
    if (index >= CARDS) return INVALID_ARGUMENT;
    *device = &devices[index][0];
    return draw("nvmlDeviceGetHandleByIndex_v2", *device, answer);
}

/* A UUID; GPU-00000000-… and for slices MIG-00000001-…: card, then slice. */
int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned size) {
    char answer[ANSWER], standard[64];
    int code = draw("nvmlDeviceGetUUID", device, answer);
    snprintf(standard, sizeof standard, "%s-%04d%04d-aaaa-bbbb-cccc-dddddddddddd", device->slice < 0 ? "GPU" : "MIG",
             device->card, device->slice < 0 ? 0 : device->slice);
    give(uuid, size, *answer ? answer : standard);
    return code;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    char answer[ANSWER];
    unsigned count;
    int code = draw("nvmlDeviceGetHandleByUUID", NULL, answer);
    if (code) return code;
    if ((code = nvmlDeviceGetCount_v2(&count))) return code;
    for (unsigned card = 0; card < count; card++)
        for (int place = 0; place <= SLICES; place++) {
            char found[96];
            *device = &devices[card][place];
            if (!nvmlDeviceGetUUID(*device, found, sizeof found) && !strcmp(found, uuid))
                return draw("handle", *device, answer);
        }
    return NOT_FOUND;
}

/* A name. */
int nvmlDeviceGetName(Device *device, char *name, unsigned size) {
    char answer[ANSWER];
    int code = draw("nvmlDeviceGetName", device, answer);
    give(name, size, *answer ? answer : device->slice < 0 ? "NVIDIA_Stub_4090" : "NVIDIA_Stub_4090_MIG_1g.5gb");
    return code;
}

/* How many places for slices; 0. */
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    char answer[ANSWER];
    int code = draw("nvmlDeviceGetMaxMigDeviceCount", device, answer);
    *count = *answer ? atoi(answer) : 0;
    return code;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **slice) {
    char answer[ANSWER];
    if (index >= SLICES) return INVALID_ARGUMENT;
    *slice = &devices[device->card][index + 1];
    return draw("nvmlDeviceGetMigDeviceHandleByIndex", *slice, answer);
}

/* The mode as it is, 0 or 1; a card that cannot be cut has none. */
int nvmlDeviceGetMigMode(Device *device, unsigned *now, unsigned *later) {
    char answer[ANSWER];
    int code = draw("nvmlDeviceGetMigMode", device, answer);
    *now = *later = *answer ? atoi(answer) : 0;
    return code ? code : *answer ? SUCCESS : NOT_SUPPORTED;
}

/* --- memory: TOTAL/RESERVED/USED in bytes; 24 GB, half a GB, 8 GB --------------------------------------------------- */

typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory_v2;

static int memory(const char *function, Device *device, Memory_v2 *out) {
    char answer[ANSWER];
    int code = draw(function, device, answer);
    out->total = 24000000000, out->reserved = 500000000, out->used = 8000000000;
    if (*answer) sscanf(answer, "%llu/%llu/%llu", &out->total, &out->reserved, &out->used);
    out->free = out->total - out->reserved - out->used;
    return code;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *out) {
    Memory_v2 all;
    int code = memory("nvmlDeviceGetMemoryInfo", device, &all);
    if (!code) *out = (Memory){all.total, all.free, all.reserved + all.used};
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory_v2 *out) {
    if (out->version != (sizeof *out | 2u << 24)) return VERSION_MISMATCH;
    return memory("nvmlDeviceGetMemoryInfo_v2", device, out);
}

/* --- numbers; slices have none of their own ------------------------------------------------------------------------- */

static int number(const char *function, Device *device, u64 standard, u64 *out) {
    char answer[ANSWER];
    int code = draw(function, device, answer);
    *out = *answer ? strtoull(answer, NULL, 0) : standard;
    return code ? code : device->slice >= 0 && !*answer ? NOT_SUPPORTED : SUCCESS;
}

#define NUMBER(function, type, standard) \
    int function(Device *device, type *out) { \
        u64 value; \
        int code = number(#function, device, standard, &value); \
        *out = (type)value; \
        return code; \
    }

NUMBER(nvmlDeviceGetPowerUsage, unsigned, 250500)                    /* milliwatts */
NUMBER(nvmlDeviceGetTotalEnergyConsumption, u64, 1000500)            /* millijoules */
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, 450000)            /* milliwatts */
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, 450000)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, u64, 0x1)             /* bits; idle */
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, u64, 0x1)

/* MHz. */
int nvmlDeviceGetClockInfo(Device *device, unsigned domain, unsigned *out) {
    u64 value;
    int code = number("nvmlDeviceGetClockInfo", device, 2520, &value);
    *out = (unsigned)value;
    return domain == 1 ? code : INVALID_ARGUMENT;
}

/* Degrees. */
int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *out) {
    u64 value;
    int code = number("nvmlDeviceGetTemperature", device, 61, &value);
    *out = (unsigned)value;
    return sensor == 0 ? code : INVALID_ARGUMENT;
}

typedef struct { unsigned version, sensor; int temperature; } Temperature;

int nvmlDeviceGetTemperatureV(Device *device, Temperature *out) {
    u64 value;
    int code = number("nvmlDeviceGetTemperatureV", device, 61, &value);
    out->temperature = (int)value;
    return out->version == (sizeof *out | 1u << 24) ? code : VERSION_MISMATCH;
}

/* CORRECTED/UNCORRECTED. */
int nvmlDeviceGetTotalEccErrors(Device *device, unsigned type, unsigned counter, u64 *out) {
    char answer[ANSWER];
    u64 counts[2] = {0, 0};
    int code = draw("nvmlDeviceGetTotalEccErrors", device, answer);
    (void)counter;
    sscanf(answer, "%llu/%llu", &counts[0], &counts[1]);
    *out = counts[type & 1];
    return code;
}

/* --- utilization ---------------------------------------------------------------------------------------------------- */

typedef struct { unsigned gpu, memory; } Utilization;

/* Percent. */
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *out) {
    u64 value;
    int code = number("nvmlDeviceGetUtilizationRates", device, 50, &value);
    *out = (Utilization){(unsigned)value, 0};
    return code;
}

typedef struct { u64 stamp; union { double d; unsigned ui; u64 ull; } value; } Sample;

static char sample_answers[CARDS][ANSWER];

/* STAMP:PERCENT,… (microseconds) whatever the caller has seen; `|` and more samples: those come between the call that
   asks for the number and the one that asks for the samples. Without a script a sample each sixth of a second. */
int nvmlDeviceGetSamples(Device *device, unsigned type, u64 seen, unsigned *value_type, unsigned *count, Sample *out) {
    char *answer = sample_answers[device->card], *end;
    int code = out ? SUCCESS : draw("nvmlDeviceGetSamples", device, answer);
    if (code) return code;
    if (type != 1 || (device->slice >= 0 && !*answer)) return NOT_SUPPORTED;
    *value_type = 1;
    Sample samples[128];
    unsigned found = 0;
    if (*answer) {
        for (char *at = answer; *at && found < 128 && !(*at == '|' && !out); at = *end == ',' ? end + 1 : end) {
            if (*at == '|') at++;
            samples[found].stamp = strtoull(at, &end, 10);
            samples[found++].value.ui = strtoul(end + 1, &end, 10);
        }
    } else {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        u64 latest = (now.tv_sec * 1000000ull + now.tv_nsec / 1000) / 166667;
        for (u64 turn = latest - 99; turn <= latest; turn++)
            if (turn * 166667 > seen) samples[found] = (Sample){.stamp = turn * 166667}, samples[found++].value.ui = 50;
    }
    if (!found) return NOT_FOUND;
    if (!out) { *count = found; return SUCCESS; }
    if (*count < found) return INSUFFICIENT_SIZE;
    *count = found;
    memcpy(out, samples, found * sizeof *samples);
    return SUCCESS;
}

/* --- processes ------------------------------------------------------------------------------------------------------ */

typedef struct { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; } Process;

/* PID:BYTES,… ; none. A negative number of bytes: hidden by the driver. */
static int processes(const char *function, Device *device, unsigned *count, Process *out) {
    static char answers[CARDS][SLICES + 1][ANSWER];
    char *answer = answers[device->card][device->slice + 1], *end;
    int code = out ? SUCCESS : draw(function, device, answer);
    unsigned found = 0, room = *count;
    if (code) return code;
    for (char *at = answer; *at; at = *end == ',' ? end + 1 : end, found++) {
        unsigned pid = strtoul(at, &end, 10);
        long long memory = strtoll(end + 1, &end, 10);
        if (out && found < room) out[found] = (Process){pid, memory < 0 ? ~0ull : (u64)memory, ~0u, ~0u};
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned *count, Process *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v2", device, count, out);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v3", device, count, out);
}

typedef struct { unsigned pid; u64 stamp; unsigned sm, memory, encoder, decoder; } ProcessUtilization;

/* PID:PERCENT,… now; not supported. An empty list is `0:0`. */
int nvmlDeviceGetProcessUtilization(Device *device, ProcessUtilization *out, unsigned *count, u64 seen) {
    static char answers[CARDS][SLICES + 1][ANSWER];
    char *answer = answers[device->card][device->slice + 1], *end;
    int code = out ? SUCCESS : draw("nvmlDeviceGetProcessUtilization", device, answer);
    unsigned found = 0, room = *count;
    struct timespec now;
    (void)seen;
    if (code) return code;
    if (!*answer) return NOT_SUPPORTED;
    if (!strcmp(answer, "0:0")) return NOT_FOUND;
    clock_gettime(CLOCK_REALTIME, &now);
    for (char *at = answer; *at; at = *end == ',' ? end + 1 : end, found++) {
        unsigned pid = strtoul(at, &end, 10), percent = strtoul(end + 1, &end, 10);
        if (out && found < room) out[found] = (ProcessUtilization){pid, now.tv_sec * 1000000ull + now.tv_nsec / 1000, percent};
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* --- events --------------------------------------------------------------------------------------------------------- */

typedef struct { Device *device; u64 type, data; unsigned gpu_instance, compute_instance; } Event;
static int event_sets;

int nvmlEventSetCreate(int **set) {
    char answer[ANSWER];
    int code = draw("nvmlEventSetCreate", NULL, answer);
    if (code) return code;
    *set = &event_sets;
    event_sets++;
    return SUCCESS;
}

int nvmlEventSetFree(int *set) {
    char answer[ANSWER];
    int code = draw("nvmlEventSetFree", NULL, answer);
    if (!code) --*set;
    return code;
}

int stub_event_sets(void) { return event_sets; }

int nvmlDeviceRegisterEvents(Device *device, u64 types, int *set) {
    char answer[ANSWER];
    (void)set;
    return types & ~8ull ? NOT_SUPPORTED : draw("nvmlDeviceRegisterEvents", device, answer);
}

/* CARD:XID; a timeout. */
int nvmlEventSetWait_v2(int *set, Event *event, unsigned milliseconds) {
    char answer[ANSWER];
    unsigned card;
    u64 xid;
    int code = draw("nvmlEventSetWait_v2", NULL, answer);
    (void)set, (void)milliseconds;
    if (code) return code;
    if (sscanf(answer, "%u:%llu", &card, &xid) != 2) return TIMEOUT;
    *event = (Event){&devices[card % CARDS][0], 8, xid, ~0u, ~0u};
    return SUCCESS;
}
