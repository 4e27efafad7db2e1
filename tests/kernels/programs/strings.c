/* String operations: the string instructions by inline assembly, gcc's own expansions, loops over bytes. */
#include "console.h"

static char buffer[512], other[512];

static size_t length(const char *text)
{
    size_t count = 0;

    while (text[count])
        count++;
    return count;
}

static unsigned sum(const void *start, size_t count)
{
    const unsigned char *bytes = start;
    unsigned result = 1;

    for (size_t i = 0; i < count; i++)
        result = result * 33 + bytes[i];
    return result;
}

static size_t scan(const char *text, char wanted)
{
    size_t count = 512;

    __asm__ volatile("repne scasb" : "+D"(text), "+c"(count) : "a"(wanted) : "cc", "memory");
    return 511 - count;
}

static int same(const void *left, const void *right, size_t count)
{
    unsigned char equal;

    __asm__ volatile("cmp %%eax, %%eax\n\trepe cmpsb\n\tsete %3"
                     : "+S"(left), "+D"(right), "+c"(count), "=q"(equal)
                     :
                     : "cc", "memory");
    return equal;
}

void program(void)
{
    const char *text = "The quick brown fox jumps over the lazy dog";
    struct { char name[40]; uint32_t more[20]; } first, second;

    __builtin_memset(buffer, '-', sizeof buffer);
    __builtin_memcpy(buffer + 3, text, length(text) + 1);
    print("%u %u %s\n", (unsigned)length(text), sum(buffer, sizeof buffer), buffer);
    print("%u %u\n", (unsigned)scan(buffer, 'q'), (unsigned)scan(buffer, 'z'));
    __builtin_memmove(buffer + 10, buffer, 100);
    print("%08x\n", sum(buffer, sizeof buffer));
    __builtin_memmove(buffer, buffer + 7, 300);
    print("%08x\n", sum(buffer, sizeof buffer));
    for (volatile unsigned count = 0; count < 40; count += 13) {
        unsigned long doublewords = count;
        void *from = buffer, *to = other + count;

        __asm__ volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(doublewords) : : "memory");
        print("%08x %d\n", sum(other, sizeof other), same(buffer, other, sizeof other));
    }
    __builtin_memcpy(other, buffer, sizeof other);
    print("%d\n", same(buffer, other, sizeof other));
    __builtin_memset(&first, 0, sizeof first);
    for (unsigned i = 0; i < 20; i++)
        first.more[i] = i * i;
    __builtin_memcpy(first.name, text, 39);
    second = first;
    second.more[7]++;
    print("%s %u %u %d\n", second.name, first.more[7], second.more[7], __builtin_memcmp(&first, &second, 40));
    for (char *at = second.name; *at; at++)
        if (*at >= 'a' && *at <= 'z')
            *at = (char)(*at - 'a' + 'A');
    print("%s\n", second.name);
}
