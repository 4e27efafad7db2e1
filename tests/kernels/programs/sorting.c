/* Sorting by four methods, of numbers and of records by pointer to a comparison; binary search. */
#include "console.h"

#define COUNT 64

struct record { uint16_t key; char name[6]; };

static uint32_t numbers[COUNT], seed = 2463534242u;

static uint32_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

static void insertion(uint32_t *array, int count)
{
    for (int i = 1; i < count; i++) {
        uint32_t value = array[i];
        int j = i;

        for (; j && array[j - 1] > value; j--)
            array[j] = array[j - 1];
        array[j] = value;
    }
}

static void quick(int32_t *array, int low, int high)
{
    int i = low, j = high;
    int32_t pivot = array[low + (high - low) / 2];

    while (i <= j) {
        while (array[i] < pivot)
            i++;
        while (array[j] > pivot)
            j--;
        if (i <= j) {
            int32_t kept = array[i];
            array[i++] = array[j];
            array[j--] = kept;
        }
    }
    if (low < j)
        quick(array, low, j);
    if (i < high)
        quick(array, i, high);
}

static void merge_sort(struct record *records, int count, int (*compare)(const struct record *, const struct record *))
{
    struct record merged[COUNT];
    int half = count / 2, i = 0, j = half, k = 0;

    if (count < 2)
        return;
    merge_sort(records, half, compare);
    merge_sort(records + half, count - half, compare);
    while (k < count)
        merged[k++] = j == count || (i < half && compare(&records[i], &records[j]) <= 0) ? records[i++] : records[j++];
    for (i = 0; i < count; i++)
        records[i] = merged[i];
}

static int by_key(const struct record *a, const struct record *b) { return a->key - b->key; }
static int by_name(const struct record *a, const struct record *b) { return a->name[0] - b->name[0]; }

static void heap(uint8_t *array, int count)
{
    for (int end = count, start = count / 2; end > 1;) {
        uint8_t value;
        int root, child;

        if (start)
            value = array[root = --start];
        else {
            value = array[--end];
            array[end] = array[root = 0];
        }
        for (; (child = 2 * root + 1) < end; root = child) {
            child += child + 1 < end && array[child + 1] > array[child];
            if (array[child] <= value)
                break;
            array[root] = array[child];
        }
        array[root] = value;
    }
}

static uint32_t digest(const void *start, unsigned count)
{
    const uint8_t *bytes = start;
    uint32_t result = 2166136261u;

    while (count--)
        result = (result ^ *bytes++) * 16777619;
    return result;
}

void program(void)
{
    static struct record records[COUNT];
    static int32_t copies[COUNT];
    static uint8_t bytes[COUNT];

    for (int i = 0; i < COUNT; i++) {
        numbers[i] = next();
        copies[i] = (int32_t)numbers[i];
        bytes[i] = (uint8_t)numbers[i];
        records[i] = (struct record){(uint16_t)(next() % 20), {(char)('a' + i % 26), (char)('0' + i / 26), 0}};
    }
    insertion(numbers, COUNT);
    quick(copies, 0, COUNT - 1);
    heap(bytes, COUNT);
    print("%08x %08x %08x\n", digest(numbers, sizeof numbers), digest(copies, sizeof copies), digest(bytes, sizeof bytes));
    merge_sort(records, COUNT, by_name);
    merge_sort(records, COUNT, by_key);
    for (int i = 0; i < COUNT; i += 9)
        print("%u%s ", records[i].key, records[i].name);
    print("\n%d %d %u\n", copies[0], copies[COUNT - 1], bytes[COUNT / 2]);
    for (int low = 0, high = COUNT - 1; low <= high;) {
        int middle = (low + high) / 2;

        print("%d ", middle);
        if (numbers[middle] == numbers[37])
            break;
        if (numbers[middle] < numbers[37])
            low = middle + 1;
        else
            high = middle - 1;
    }
    print("\n");
}
