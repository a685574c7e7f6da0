/* Marks the library's public symbols; everything else is hidden. */
#ifndef CAAN_EXPORT_H
#define CAAN_EXPORT_H

#if defined(__GNUC__)
#define CAAN_API __attribute__((visibility("default")))
#define CAAN_HIDDEN __attribute__((visibility("hidden")))
#else
#define CAAN_API
#define CAAN_HIDDEN
#endif

#endif
