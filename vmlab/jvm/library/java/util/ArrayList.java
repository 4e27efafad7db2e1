package java.util;

public class ArrayList<E> implements List<E> {
    private Object[] elements = new Object[10];
    private int size;

    public ArrayList() {
    }

    public ArrayList(int capacity) {
        elements = new Object[capacity];
    }

    private void check(int index) {
        if (index < 0 || index >= size) {
            throw new IndexOutOfBoundsException("Index " + index + " out of bounds for length " + size);
        }
    }

    public int size() {
        return size;
    }

    public boolean isEmpty() {
        return size == 0;
    }

    public boolean add(E element) {
        if (size == elements.length) {
            Object[] larger = new Object[size + size / 2 + 1];
            System.arraycopy(elements, 0, larger, 0, size);
            elements = larger;
        }
        elements[size++] = element;
        return true;
    }

    public E get(int index) {
        check(index);
        return (E) elements[index];
    }

    public E set(int index, E element) {
        check(index);
        E old = (E) elements[index];
        elements[index] = element;
        return old;
    }

    public E remove(int index) {
        check(index);
        E old = (E) elements[index];
        System.arraycopy(elements, index + 1, elements, index, size - index - 1);
        elements[--size] = null;
        return old;
    }

    public void clear() {
        while (size > 0) {
            elements[--size] = null;
        }
    }

    public int indexOf(Object object) {
        for (int i = 0; i < size; i++) {
            if (object == null ? elements[i] == null : object.equals(elements[i])) {
                return i;
            }
        }
        return -1;
    }

    public boolean contains(Object object) {
        return indexOf(object) >= 0;
    }

    public Iterator<E> iterator() {
        return new Cursor();
    }

    public String toString() {
        StringBuilder text = new StringBuilder("[");
        for (int i = 0; i < size; i++) {
            if (i > 0) {
                text.append(", ");
            }
            text.append(elements[i]);
        }
        return text.append(']').toString();
    }

    private class Cursor implements Iterator<E> {
        private int next;

        public boolean hasNext() {
            return next < size;
        }

        public E next() {
            if (next >= size) {
                throw new NoSuchElementException();
            }
            return (E) elements[next++];
        }
    }
}
