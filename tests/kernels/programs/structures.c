/* Structures: passed and returned by value, copied, packed, with bit-fields; unions. */
#include "console.h"

struct small { int8_t a; int16_t b; };
struct large { uint32_t values[30]; struct small inner; uint64_t wide; };
struct __attribute__((packed)) odd { uint8_t a; uint32_t b; uint16_t c; uint64_t d; };
struct fields { unsigned a : 3, b : 7, c : 1; int d : 5; unsigned e : 16; unsigned long long f : 40; int g : 20; };
union view { uint32_t word; uint8_t bytes[4]; int16_t halves[2]; };

__attribute__((noinline)) static struct large grow(struct large value, uint32_t by)
{
    for (unsigned i = 0; i < 30; i++)
        value.values[i] += by * i;
    value.inner.b = (int16_t)(value.inner.b - 5);
    value.wide = value.wide << 3 | by;
    return value;
}

__attribute__((noinline)) static struct small flip(struct small value)
{
    return (struct small){(int8_t)value.b, value.a};
}

__attribute__((noinline)) static void change(struct fields *fields, int by)
{
    fields->a += (unsigned)by;
    fields->b -= (unsigned)by * 3;
    fields->c ^= 1;
    fields->d += by;
    fields->e *= 7;
    fields->f = fields->f * 3 + 0x123456789;
    fields->g -= by * 1000;
}

void program(void)
{
    struct large one = {{0}, {-7, 3000}, 0x0123456789ABCDEF}, two;
    struct fields fields = {1, 2, 0, -3, 500, 99, -7};
    struct odd odds[3] = {{1, 2, 3, 4}, {5, 0x6789ABCD, 7, 8}, {0}};
    union view view = {0x80C1F2E3};
    struct small pair = {-100, 1234};

    for (unsigned i = 0; i < 30; i++)
        one.values[i] = i * 3;
    two = grow(one, 11);
    one = grow(two, 5);
    print("%u %u %d %d %llx\n", one.values[29], two.values[29], one.inner.a, two.inner.b, (unsigned long long)one.wide);
    pair = flip(pair);
    print("%d %d\n", pair.a, pair.b);
    for (int i = 0; i < 12; i++) {
        change(&fields, i);
        print("%u %u %u %d %u %llx %d\n", fields.a, fields.b, fields.c, fields.d, fields.e, (unsigned long long)fields.f,
              fields.g);
    }
    odds[2] = odds[1];
    odds[2].d = (uint64_t)odds[2].b * odds[2].c;
    for (int i = 0; i < 3; i++)
        print("%u %x %u %llu\n", odds[i].a, odds[i].b, odds[i].c, (unsigned long long)odds[i].d);
    print("%u %d %d\n", view.bytes[3], view.halves[0], view.halves[1]);
    view.bytes[1] = 7;
    print("%08x %u\n", view.word, (unsigned)sizeof(struct odd));
}
