/* Integer arithmetic of each width, signed and unsigned, with carries, overflows and all comparisons. */
#include "console.h"

static volatile uint32_t words[] = {0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0x12345678};

#define COUNT (sizeof words / sizeof words[0])

static unsigned compare(uint32_t a, uint32_t b)
{
    int32_t c = (int32_t)a, d = (int32_t)b;

    return (a < b) | (a <= b) << 1 | (a == b) << 2 | (a > b) << 3 | (c < d) << 4 | (c <= d) << 5 | (c > d) << 6 |
           (c >= d) << 7 | ((c & d) != 0) << 8 | ((int32_t)(a - b) < 0) << 9;
}

static void narrow(uint32_t value)
{
    int8_t a = (int8_t)value;
    uint8_t b = (uint8_t)(value >> 3);
    int16_t c = (int16_t)(value >> 5);
    uint16_t d = (uint16_t)(value >> 7);

    print("%d %u %d %u %d %u\n", a, b, c, d, (int8_t)(a * 3 + b), (uint16_t)(c - d));
    a = (int8_t)(a >> 2);
    b = (uint8_t)(b << 1);
    c = (int16_t)-c;
    d = (uint16_t)~d;
    print("%d %u %d %u %d\n", a, b, c, d, a < (int8_t)b);
}

static int carried(uint32_t a, uint32_t b)
{
    uint32_t sum;
    int32_t difference;
    int carry = __builtin_add_overflow(a, b, &sum);
    int overflow = __builtin_sub_overflow((int32_t)a, (int32_t)b, &difference);

    return carry | overflow << 1 | (int)((sum ^ (uint32_t)difference) & 0xFF0);
}

void program(void)
{
    uint32_t hash = 17;

    for (unsigned i = 0; i < COUNT; i++) {
        for (unsigned j = 0; j < COUNT; j++) {
            uint32_t a = words[i], b = words[j];

            hash = hash * 31 + (a + b) + (a ^ b) * 3 + (a & ~b) - (a | b);
            hash += compare(a, b) + (uint32_t)carried(a, b);
            hash = hash << (b & 31) | hash >> (-b & 31);
            if (b && !(a == 0x80000000 && b == 0xFFFFFFFF))
                hash ^= a / b + a % b * 5 + (uint32_t)((int32_t)a / (int32_t)b) + (uint32_t)((int32_t)a % (int32_t)b);
            hash += (uint32_t)((uint64_t)a * b >> 32) ^ (uint32_t)((int64_t)(int32_t)a * (int32_t)b >> 32);
        }
        print("%08x\n", hash);
        narrow(words[i]);
        print("%d %d %d %d\n", (int32_t)words[i] / 10, (int32_t)words[i] % 7, (int32_t)words[i] / 8,
              (int32_t)(words[i] >> 1) * -9);
        print("%d %d\n", __builtin_popcount(words[i]), words[i] ? __builtin_clz(words[i]) * 100 + __builtin_ctz(words[i]) : -1);
        print("%08x\n", __builtin_bswap32(words[i]));
    }
}
