/* The program as a kernel: output on COM1, and the four functions that gcc may call in any freestanding program. */
#include "console.h"
#include "ports.h"

void *memcpy(void *to, const void *from, size_t count)
{
    void *result = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return result;
}

void *memset(void *to, int value, size_t count)
{
    void *result = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t count)
{
    char *target = to;
    const char *source = from;

    if (target <= source || target >= source + count)
        return memcpy(to, from, count);
    target += count - 1;
    source += count - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(target), "+S"(source), "+c"(count) : : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t count)
{
    const unsigned char *a = left, *b = right;

    for (; count; a++, b++, count--)
        if (*a != *b)
            return *a - *b;
    return 0;
}

static void put(char character)
{
    while (!(in8(COM1 + 5) & 0x20))
        ;
    out8(COM1, (uint8_t)character);
}

static void put_number(uint64_t value, unsigned base, int width, char padding, int negative)
{
    char digits[24];
    int count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative && padding == '0')
        put('-');
    for (width -= negative; width > count; width--)
        put(padding);
    if (negative && padding != '0')
        put('-');
    while (count)
        put(digits[--count]);
}

static void put_text(const char *text)
{
    while (*text)
        put(*text++);
}

static void format_text(const char *format, va_list arguments)
{
    for (; *format; format++) {
        char padding = ' ';
        int width = 0, wide = 0;

        if (*format != '%') {
            put(*format);
            continue;
        }
        if (*++format == '0')
            padding = *format++;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + *format++ - '0';
        if (format[0] == 'l' && format[1] == 'l') {
            wide = 1;
            format += 2;
        }
        switch (*format) {
        case 'd': {
            int64_t value = wide ? va_arg(arguments, long long) : va_arg(arguments, int);
            put_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, width, padding, value < 0);
            break;
        }
        case 'u':
        case 'x': {
            uint64_t value = wide ? va_arg(arguments, unsigned long long) : va_arg(arguments, unsigned);
            put_number(value, *format == 'x' ? 16 : 10, width, padding, 0);
            break;
        }
        case 'c':
            put((char)va_arg(arguments, int));
            break;
        case 's':
            put_text(va_arg(arguments, const char *));
            break;
        default:
            put(*format);
        }
    }
}

void print(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    format_text(format, arguments);
    va_end(arguments);
}

/* boot.S calls this; what it returns is the status of the debug-exit port. system.c brings its own. */
__attribute__((weak)) int kernel(uint32_t magic, const uint32_t *information)
{
    if (magic != 0x2BADB002 || !(information[0] & 1))
        return 1;
    program();
    return 0;
}

__attribute__((weak)) void program(void)
{
}
